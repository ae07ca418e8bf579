"""What gunicorn serves: an answer that reads nothing of the request's body."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"ok"]
