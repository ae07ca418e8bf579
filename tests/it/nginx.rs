//! A real nginx: an upstream that nobody here wrote.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use crate::node::{PATIENCE, Place, Server};

/// One process, that ends with the test.
pub struct Nginx {
    pub address: SocketAddr,
    place: Place,
    process: Option<Server>,
}

impl Nginx {
    /// One whose `server` block says `server`, in plain text.
    pub fn start(server: &str) -> Nginx {
        Nginx::start_at(free_address(), "", server)
    }

    /// One at this address, with more behind it in the line of `listen`.
    pub fn start_at(address: SocketAddr, listen: &str, server: &str) -> Nginx {
        let place = Place::new();
        let text = format!(
            "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log; events {{}}
             http {{ access_log {dir}/access.log; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
               fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
               server {{ listen {address} {listen}; {server} }} }}",
            dir = place.path().display()
        );
        place.write("nginx.conf", &text);
        let mut nginx = Nginx { address, place, process: None };
        nginx.begin();
        nginx
    }

    /// Starts it again where it was.
    pub fn begin(&mut self) {
        let mut command = Command::new("nginx");
        command.arg("-c").arg(self.place.path().join("nginx.conf")).arg("-p").arg(self.place.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Server(command.spawn().expect("nginx")));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let errors = self.place.path().join("error.log");
            assert!(Instant::now() < deadline, "nginx: {:?}", std::fs::read_to_string(errors));
            std::thread::yield_now();
        }
    }

    /// Ends it at once; its address stays its own.
    pub fn end(&mut self) {
        self.process = None;
    }

    /// The requests that it answered, a line each.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("access.log")).unwrap_or_default()
    }
}

/// An address that nothing else in these tests listens on or is connected from, so that its port stays free until nginx
/// has it, and while nginx is away.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let host = [127, 0, 5, NEXT.fetch_add(1, Ordering::Relaxed)];
    let free = TcpListener::bind((std::net::IpAddr::from(host), 0)).expect("a port");
    free.local_addr().expect("bound")
}
