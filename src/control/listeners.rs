//! The addresses that are listened on: opened, inherited, moved and closed while everything else goes on.
//!
//! The supervisor keeps one descriptor of every listening socket, to hand it to another process; the cores have their own. An
//! address is taken first ([`Doors::bind`]), and only when the rest of the configuration is in order anybody can connect
//! ([`Plan::listen`]), so that one that is refused has let nobody in.
//!
//! A Unix socket is one for all cores. Its file is made under another name, with its owner and mode, and moved to its place in
//! one step; one that is there already is replaced only if nobody listens on it. When its listener goes the file goes first, so that
//! nobody begins what the end of the queue would reset; not where a process that takes over, or the service manager, has it.
//!
//! A socket that a core closes is gone with its last descriptor, so the supervisor gives up its own ([`Doors::leave`]) before
//! the cores are told.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use crate::sys::address::Address;
use crate::sys::socket::{bind, bind_unix, connect_start, shares_its_address, start_listening};
use crate::worker::desk::{Desk, Order};
use crate::worker::run::BACKLOG;

/// An address that is to be listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The address.
    pub address: Address,
    /// Who may connect to a Unix socket: the mode of its file.
    pub mode: u32,
    /// Whose its file is to be, user and group, where that is not this process's to choose anyhow.
    pub owner: Option<(u32, u32)>,
}

impl From<SocketAddr> for Wanted {
    fn from(address: SocketAddr) -> Wanted {
        Wanted { address: address.into(), mode: 0o660, owner: None }
    }
}

/// A listening socket of somebody else's: of the process before this one, or of the service manager.
#[derive(Debug)]
pub struct Lent {
    /// The address as the configuration of the one that lends it has it: port 0 stays 0.
    pub wanted: Address,
    /// What it is bound to.
    pub bound: Address,
    /// The socket.
    pub socket: TcpListener,
    /// The service manager listens on it as well, and goes on when we do not.
    pub by_manager: bool,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct Refused {
    /// The place of the listener in the configuration.
    pub place: usize,
    /// Which address.
    pub address: Address,
    /// What the system said.
    pub error: io::Error,
}

/// One address and its sockets.
#[derive(Debug)]
struct Door {
    /// Of [`crate::snapshot::Listener::id`].
    listener: u32,
    wanted: Address,
    bound: Address,
    /// Each another queue of the kernel's, and whether it is the service manager's as well.
    sockets: Vec<(TcpListener, bool)>,
    /// Device and inode of a Unix socket's file.
    file: Option<(u64, u64)>,
}

/// All addresses that are listened on.
#[derive(Debug)]
pub struct Doors {
    cores: usize,
    open: Vec<Door>,
}

/// What a configuration wants.
#[derive(Debug)]
pub struct Plan {
    /// By the place of the listener; `None` where the door is open already.
    doors: Vec<Option<Door>>,
    files: Vec<WantedFile>,
}

/// The file of a Unix socket that somebody else made, or that was made for another configuration.
#[derive(Debug)]
struct WantedFile {
    place: usize,
    address: Address,
    /// Device and inode: another file is somebody else's.
    file: (u64, u64),
    mode: u32,
}

impl Doors {
    /// No door, for so many cores.
    pub fn new(cores: usize) -> Doors {
        Doors { cores, open: Vec::new() }
    }

    /// Takes the addresses that are wanted and not open yet; what is `lent` for one is used for it, and what is left stays
    /// in `lent`.
    ///
    /// # Errors
    /// The first address that cannot be had. Nothing has changed then.
    pub fn bind(&self, wanted: &[Wanted], lent: &mut Vec<Lent>) -> Result<Plan, Refused> {
        let mut known: Vec<&Door> = self.open.iter().collect();
        let mut plan = Plan { doors: Vec::with_capacity(wanted.len()), files: Vec::new() };
        for (place, wanted) in wanted.iter().enumerate() {
            if let Some(at) = known.iter().position(|door| door.wanted == wanted.address) {
                plan.files.extend(known.remove(at).wanted_file(place, wanted.mode));
                plan.doors.push(None);
                continue;
            }
            let door = Door::new(wanted, self.cores, lent);
            let refused = |error| Refused { place, address: wanted.address.clone(), error };
            let door = door.map_err(refused)?;
            plan.files.extend(door.wanted_file(place, wanted.mode));
            plan.doors.push(Some(door));
        }
        Ok(plan)
    }

    /// Gives up the sockets of all listeners but these, before the cores close theirs; `ends`: and nobody else has them. Returns
    /// the addresses.
    pub fn leave(&mut self, but: &[u32], ends: bool) -> Vec<Address> {
        let gone = self.open.extract_if(.., |door| !but.contains(&door.listener));
        gone.inspect(|door| {
            if ends {
                door.remove_file()
            }
        })
        .map(|door| door.bound)
        .collect()
    }

    /// Has the cores accept at the doors of a plan, whose listeners, by place, are these. They must have been published.
    /// Returns the addresses.
    ///
    /// # Errors
    /// No descriptor is left for a core, or a core does not take what it is given.
    pub fn open(&mut self, plan: Plan, listeners: &[u32], desks: &[Desk]) -> io::Result<Vec<Address>> {
        let mut opened = Vec::new();
        let mut result = Ok(());
        let doors = plan.doors.into_iter().zip(listeners);
        for (mut door, listener) in doors.filter_map(|(door, listener)| Some((door?, *listener))) {
            door.listener = listener;
            opened.push(door.bound.clone());
            result = result.and(door.hand_out(desks));
            self.open.push(door);
        }
        // As the configuration has them.
        self.open.sort_by_key(|door| listeners.iter().position(|listener| *listener == door.listener));
        desks.iter().for_each(Desk::ring);
        result.map(|()| opened)
    }

    /// The addresses, in the order of the configuration.
    pub fn addresses(&self) -> Vec<Address> {
        self.open.iter().map(|door| door.bound.clone()).collect()
    }

    /// Every socket with what it was wanted as, and whether it is the service manager's as well.
    pub fn sockets(&self) -> impl Iterator<Item = (&Address, &TcpListener, bool)> {
        self.open.iter().flat_map(|door| {
            door.sockets.iter().map(|(socket, by_manager)| (&door.wanted, socket, *by_manager))
        })
    }
}

impl Plan {
    /// From here on anybody can connect who may.
    ///
    /// # Errors
    /// The first address that cannot be listened on, or whose file cannot have the mode that it should.
    pub fn listen(&self) -> Result<(), Refused> {
        for file in &self.files {
            let refused = |error| Refused { place: file.place, address: file.address.clone(), error };
            file.set_mode().map_err(refused)?;
        }
        for (place, door) in self.doors.iter().enumerate() {
            let Some(door) = door else { continue };
            for (socket, _) in &door.sockets {
                let refused = |error| Refused { place, address: door.bound.clone(), error };
                start_listening(socket, BACKLOG).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// The addresses, by place.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.doors.iter().flatten().map(|door| &door.bound)
    }
}

impl WantedFile {
    /// Who may connect is said by this configuration, and not by the one that the file was made for.
    fn set_mode(&self) -> io::Result<()> {
        let Address::Unix(path) = &self.address else { return Ok(()) };
        match fs::symlink_metadata(path) {
            Ok(now) if (now.dev(), now.ino()) != self.file || now.mode() & 0o777 == self.mode => Ok(()),
            Ok(_) => fs::set_permissions(path, fs::Permissions::from_mode(self.mode)),
            // Nobody new finds it, whatever its mode.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Door {
    /// A door at `wanted`, with a socket for each core where that can be had.
    fn new(wanted: &Wanted, cores: usize, lent: &mut Vec<Lent>) -> io::Result<Door> {
        let address = &wanted.address;
        // Of several at port 0 each has its own.
        let first = lent.iter().find(|lent| lent.wanted == *address).map(|lent| lent.bound.clone());
        let ours = lent.extract_if(.., |lent| lent.wanted == *address && Some(&lent.bound) == first.as_ref());
        let mut sockets: Vec<_> = ours.map(|lent| (lent.socket, lent.by_manager)).collect();
        let mut bound = first.unwrap_or_else(|| address.clone());
        match &mut bound {
            Address::Unix(path) if sockets.is_empty() => {
                sockets.push((unix_socket(path, wanted.mode, wanted.owner)?, false));
            }
            Address::Unix(_) => {}
            Address::Tcp(bound) if sockets.is_empty() => {
                for _ in 0..cores {
                    let socket = bind(*bound)?;
                    // Port 0 means: one free port, the same on every core.
                    *bound = socket.local_addr()?;
                    sockets.push((socket, false));
                }
            }
            Address::Tcp(bound) => {
                while sockets.len() < cores && sockets.iter().all(|(socket, _)| shares_its_address(socket)) {
                    // Whoever made the others may have had rights that we have not: then cores share what there is.
                    match bind(*bound) {
                        Ok(socket) => sockets.push((socket, false)),
                        Err(_) => break,
                    }
                }
            }
        }
        let file = match &bound {
            Address::Unix(path) => fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino())),
            Address::Tcp(_) => None,
        };
        Ok(Door { listener: 0, wanted: address.clone(), bound, sockets, file })
    }

    /// The mode that the file of a Unix socket is to have. That of the service manager's is its own affair.
    fn wanted_file(&self, place: usize, mode: u32) -> Option<WantedFile> {
        let file = self.file.filter(|_| self.sockets.iter().all(|(_, by_manager)| !by_manager))?;
        Some(WantedFile { place, address: self.bound.clone(), file, mode })
    }

    /// Nobody new finds a Unix socket any more. A file that is no longer the one it was is somebody else's.
    fn remove_file(&self) {
        let Address::Unix(path) = &self.bound else { return };
        let now = fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()));
        if now.is_some() && now == self.file && self.sockets.iter().all(|(_, by_manager)| !by_manager) {
            // One that cannot be removed is replaced by whoever listens there next.
            let _ = fs::remove_file(path);
        }
    }

    /// Gives every core its sockets: all have one, and none is left over.
    fn hand_out(&self, desks: &[Desk]) -> io::Result<()> {
        let (cores, count) = (desks.len(), self.sockets.len());
        for (core, desk) in desks.iter().enumerate() {
            let first = if core < count { core } else { core % count.max(1) };
            for (socket, lent) in self.sockets.iter().skip(first).step_by(cores) {
                let (listener, lent) = (self.listener, *lent);
                let mut order = Order::Listen { listener, socket: socket.try_clone()?, lent };
                let mut tries = 0;
                while let Err(back) = desk.lay(order) {
                    // More sockets at once than a desk has room for: the core takes them as it comes to it.
                    if tries == TRIES_MAX {
                        return Err(io::Error::other(format!("core {core} does not take its sockets")));
                    }
                    tries += 1;
                    desk.ring();
                    std::thread::sleep(PAUSE);
                    order = back;
                }
                if core >= count {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// A Unix socket at `path`, in the place of one that nobody listens on any more, and of nothing else.
pub(super) fn unix_socket(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<TcpListener> {
    let in_use = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return in_use("what is there is no socket"),
        Ok(_) => match connect_start(&path.into()) {
            // One that is bound and does not listen yet says so too: whoever is about to would lose its file.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return in_use("somebody listens on it"),
        },
    }
    // Under a name of its own until owner and mode are right; nobody can connect before it listens.
    let fresh = path.with_file_name(format!(".rw-{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let socket = bind_unix(&fresh)?;
    let moved = fs::set_permissions(&fresh, fs::Permissions::from_mode(mode))
        .and_then(|()| match owner {
            Some((user, group)) => std::os::unix::fs::chown(&fresh, Some(user), Some(group)),
            None => Ok(()),
        })
        .and_then(|()| fs::rename(&fresh, path));
    if moved.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    moved.map(|()| socket)
}

/// How often, and how long each time, a core is waited for whose desk is full.
const TRIES_MAX: u32 = 2_000;
const PAUSE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// How many sockets lie on each desk.
    fn handed_out(sockets: usize, cores: usize) -> Vec<usize> {
        let first = bind(loopback()).expect("a port");
        let bound = first.local_addr().expect("bound");
        let mut all = vec![(first, false)];
        all.extend((1..sockets).map(|_| (bind(bound).expect("shared"), false)));
        let door =
            Door { listener: 1, wanted: loopback().into(), bound: bound.into(), sockets: all, file: None };
        let desks: Vec<Desk> = (0..cores).map(|_| Desk::new().expect("a desk")).collect();
        door.hand_out(&desks).expect("handed out");
        desks.iter().map(|desk| std::iter::from_fn(|| desk.take()).count()).collect()
    }

    #[test]
    fn every_core_has_a_socket_and_no_queue_is_left_alone() {
        assert_eq!(handed_out(2, 2), [1, 1]);
        assert_eq!(handed_out(1, 3), [1, 1, 1]);
        assert_eq!(handed_out(2, 3), [1, 1, 1]);
        assert_eq!(handed_out(5, 2), [3, 2]);
        assert_eq!(handed_out(4, 1), [4]);
    }

    #[test]
    fn what_is_lent_is_used_for_its_address_and_the_rest_is_left() {
        let lend = |wanted: SocketAddr| {
            let socket = bind(wanted).expect("a port");
            let bound = socket.local_addr().expect("bound").into();
            Lent { wanted: wanted.into(), bound, socket, by_manager: false }
        };
        let (one, other) = (lend(loopback()), lend(loopback()));
        let (first, second) = (one.bound.clone(), other.bound.clone());
        let stranger = lend("127.0.0.2:0".parse().expect("an address"));
        let mut lent = vec![one, stranger, other];
        let doors = Doors::new(2);
        let plan = doors.bind(&[loopback().into(), loopback().into()], &mut lent).expect("bound");
        assert_eq!(plan.addresses().collect::<Vec<_>>(), [&first, &second]);
        assert!(plan.doors.iter().flatten().all(|door| door.sockets.len() == 2), "one for each core");
        assert_eq!(lent.len(), 1);
    }

    #[test]
    fn an_address_that_somebody_else_has_is_refused_by_its_place() {
        let holder = TcpListener::bind(loopback()).expect("a port");
        let taken = holder.local_addr().expect("bound");
        let refused =
            Doors::new(1).bind(&[loopback().into(), taken.into()], &mut Vec::new()).expect_err("taken");
        assert_eq!((refused.place, refused.error.kind()), (1, io::ErrorKind::AddrInUse));
    }

    #[test]
    fn nobody_can_connect_before_the_rest_is_in_order() {
        let plan = Doors::new(1).bind(&[loopback().into()], &mut Vec::new()).expect("bound");
        let Some(Address::Tcp(address)) = plan.addresses().next() else { panic!("one") };
        assert!(std::net::TcpStream::connect(address).is_err());
        plan.listen().expect("listens");
        assert!(std::net::TcpStream::connect(address).is_ok());
    }

    #[test]
    fn who_may_connect_to_a_unix_socket_changes_with_the_configuration() {
        let path = std::env::temp_dir().join(format!("ringwall-mode-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        let wanted = |mode| [Wanted { address: path.as_path().into(), mode, owner: None }];
        let mut doors = Doors::new(1);
        let plan = doors.bind(&wanted(0o666), &mut Vec::new()).expect("bound");
        plan.listen().expect("listens");
        doors.open(plan, &[1], &[]).expect("opened");
        assert_eq!(mode(), 0o666);
        // Not before all the rest is in order.
        let plan = doors.bind(&wanted(0o600), &mut Vec::new()).expect("known");
        assert_eq!(mode(), 0o666);
        plan.listen().expect("listens");
        assert_eq!(mode(), 0o600);
        // The same where it was another process that made it.
        let (_, socket, _) = doors.sockets().next().expect("one");
        let socket = socket.try_clone().expect("a descriptor");
        let address = Address::from(path.as_path());
        let mut lent = vec![Lent { wanted: address.clone(), bound: address, socket, by_manager: false }];
        Doors::new(1).bind(&wanted(0o640), &mut lent).expect("taken over").listen().expect("listens");
        assert_eq!(mode(), 0o640);
        // A file that took its place is somebody else's.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "").expect("another");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its mode");
        doors.bind(&wanted(0o600), &mut Vec::new()).expect("known").listen().expect("listens");
        assert_eq!(mode(), 0o644);
        fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn a_unix_socket_takes_the_place_of_a_dead_one_and_of_nothing_else() {
        let path = std::env::temp_dir().join(format!("ringwall-door-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let wanted = Wanted { address: path.as_path().into(), mode: 0o600, owner: None };
        let plan = || Doors::new(3).bind(std::slice::from_ref(&wanted), &mut Vec::new());
        let first = plan().expect("bound");
        assert_eq!(
            connect_start(&wanted.address).expect_err("not yet").kind(),
            io::ErrorKind::ConnectionRefused
        );
        first.listen().expect("listens");
        connect_start(&wanted.address).expect("connected");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let refused = plan().expect_err("somebody listens");
        assert_eq!(refused.error.kind(), io::ErrorKind::AddrInUse);
        connect_start(&wanted.address).expect("still there");
        drop(first);
        // The file outlives its socket; then it is in nobody's use.
        assert!(path.exists());
        plan().expect("bound again").listen().expect("listens");
        let _ = fs::remove_file(&path);
        fs::write(&path, "no socket").expect("a file");
        assert_eq!(plan().expect_err("no socket").error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).expect("still there"), b"no socket");
        let _ = fs::remove_file(&path);
    }
}
