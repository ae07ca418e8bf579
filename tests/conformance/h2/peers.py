"""Runs the suite against servers that other people wrote, as far as they are installed: what all of them fail is likely to be
a wrong case. Prints the table that README.md holds.

    python3 tests/conformance/h2/peers.py [--peer NAME] [--filter WORD] [--out FOLDER]
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
NAME = "localhost"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def nginx(folder, tls, clear, origin):
    (folder / "nginx.conf").write_text(f"""
daemon off; user root; worker_processes 1; worker_shutdown_timeout 10s; pid {folder}/pid; error_log {folder}/error.log; events {{ worker_connections 16384; }}
http {{ access_log off; client_max_body_size 200m; keepalive_requests 100000; large_client_header_buffers 8 32k;
  client_header_timeout 10s; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; proxy_max_temp_file_size 0;
  server {{ listen 127.0.0.1:{tls} ssl http2; listen 127.0.0.1:{clear} http2; server_name _;
    ssl_certificate {folder}/c.pem; ssl_certificate_key {folder}/k.pem;
    location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_request_buffering off; proxy_buffer_size 64k; proxy_buffers 8 64k;
      proxy_busy_buffers_size 128k; }} }} }}""")
    return ["nginx", "-c", f"{folder}/nginx.conf", "-p", str(folder)], "QUIT", ["nginx", "-v"]


def haproxy(folder, tls, clear, origin):
    (folder / "both.pem").write_text((folder / "c.pem").read_text() + (folder / "k.pem").read_text())
    (folder / "haproxy.cfg").write_text(f"""
global
  maxconn 4096
  tune.maxrewrite 1024
  tune.bufsize 65536
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout http-request 10s
  timeout http-keep-alive 60s
frontend f
  bind 127.0.0.1:{tls} ssl crt {folder}/both.pem alpn h2,http/1.1
  bind 127.0.0.1:{clear} proto h2
  default_backend b
backend b
  server s 127.0.0.1:{origin}
""")
    return ["haproxy", "-db", "-f", f"{folder}/haproxy.cfg"], "USR1", ["haproxy", "-v"]


def h2o(folder, tls, clear, origin):
    (folder / "h2o.conf").write_text(f"""
user: root
num-threads: 1
http2-graceful-shutdown-timeout: 5
limit-request-body: 209715200
listen: {{ host: 127.0.0.1, port: {tls}, ssl: {{ certificate-file: {folder}/c.pem, key-file: {folder}/k.pem }} }}
listen: {{ host: 127.0.0.1, port: {clear} }}
proxy.preserve-host: ON
hosts:
  default:
    paths:
      "/": {{ proxy.reverse.url: "http://127.0.0.1:{origin}" }}
""")
    return ["h2o", "-c", f"{folder}/h2o.conf"], "TERM", ["h2o", "--version"]


def nghttpx(folder, tls, clear, origin):
    return [
        "nghttpx", "--conf=/dev/null", "--no-ocsp", "--accesslog-file=/dev/null", f"--frontend=127.0.0.1,{tls}",
        f"--frontend=127.0.0.1,{clear};no-tls", f"--backend=127.0.0.1,{origin}", f"{folder}/k.pem", f"{folder}/c.pem",
    ], "QUIT", ["nghttpx", "--version"]


def caddy(folder, tls, clear, origin):
    (folder / "Caddyfile").write_text(f"""
{{
  admin off
  auto_https off
  skip_install_trust
  grace_period 10s
  storage file_system {folder}/storage
  servers {{
    protocols h1 h2 h2c
  }}
}}
https://{NAME}:{tls} {{
  bind 127.0.0.1
  tls {folder}/c.pem {folder}/k.pem
  reverse_proxy 127.0.0.1:{origin}
}}
http://:{clear} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{origin}
}}
""")
    return ["caddy", "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"], "TERM", ["caddy", "version"]


PEERS = {"nghttpx": nghttpx, "h2o": h2o, "haproxy": haproxy, "nginx": nginx, "caddy": caddy}


def version_of(command):
    said = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+(\.\d+)+", said.stdout + said.stderr).group(0)


def suite_of(name, tls, filters, out, clients=False):
    """The results of one peer over one transport."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        folder.chmod(0o755)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
             "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", folder / "k.pem", "-out", folder / "c.pem"],
            check=True, capture_output=True)
        (folder / "k.pem").chmod(0o644)
        ports = free_port(), free_port()
        origin = free_port()
        command, signal, version = PEERS[name](folder, *ports, origin)
        log = open(out / f"{name}.log", "w")
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        try:
            port = ports[0] if tls else ports[1]
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            if clients:
                command = [sys.executable, str(HERE / "clients.py"), "--name", NAME]
            else:
                command = [sys.executable, str(HERE), "--authority", f"{NAME}:{port}", "--drain", f"{server.pid}:{signal}"]
                command += [word for filter in filters for word in ("--filter", filter)]
            command += ["--port", str(port), "--origin", f"127.0.0.1:{origin}", "--json"] + (["--tls"] if tls else [])
            said = subprocess.run(command, capture_output=True, text=True, timeout=900)
            (out / f"{name}-{'tls' if tls else 'clear'}.jsonl").write_text(said.stdout)
            if said.stderr:
                print(said.stderr[-2000:], file=sys.stderr)
            *results, summary = map(json.loads, said.stdout.splitlines())
            return version_of(version), results, summary
        finally:
            # Its own session: what it has forked ends with it.
            try:
                os.killpg(server.pid, 9)
            except ProcessLookupError:
                pass
            server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", action="append", choices=sorted(PEERS))
    parser.add_argument("--filter", action="append", default=[])
    parser.add_argument("--transport", choices=["tls", "clear"], action="append")
    parser.add_argument("--clients", action="store_true", help="the clients of clients.py instead of the suite")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("target/h2-peers"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.clients:
        print("| server | version | transport | passed/all | left out | failed |")
        print("|---|---|---|---|---|---|")
    else:
        print("| server | version | transport | of the RFC: passed/all | narrow | of Ringwall's own: passed/all | narrow | left out | s |")
        print("|---|---|---|---|---|---|---|---|---|")
    failures = {}
    ran = 0
    for name in arguments.peer or PEERS:
        if not shutil.which(name):
            print(f"NOT RUN: {name} is not installed")
            continue
        for transport in arguments.transport or ["tls", "clear"]:
            version, results, summary = suite_of(
                name, transport == "tls", arguments.filter, arguments.out, arguments.clients)
            ran += 1
            if arguments.clients:
                passed = sum(each["state"] == "passed" for each in results)
                wrong = " ".join(each["id"] for each in results if each["state"] == "failed")
                out_of = passed + sum(each["state"] == "failed" for each in results)
                print(f"| {name} | {version} | {transport} | {passed}/{out_of} | {summary['left_out']} | {wrong} |", flush=True)
                continue
            cells = []
            for law in ("rfc", "gateway"):
                found = [each for each in results if each.get("law") == law and each["state"] != "left out"]
                passed = [each for each in found if each["state"] == "passed"]
                cells += [f"{len(passed)}/{len(found)}", str(sum(each["narrow"] for each in passed))]
            print("|", " | ".join([name, version, transport, *cells, str(summary["left_out"]), str(summary["seconds"])]), "|", flush=True)
            for each in results:
                if each["state"] == "failed":
                    failures.setdefault(each["id"], []).append(f"{name}/{transport}")
    for id, servers in failures.items():
        if len(servers) == ran:
            print(f"every server fails {id}")


if __name__ == "__main__":
    main()
