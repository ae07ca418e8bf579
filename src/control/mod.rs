//! The control thread: reload, key sets, DNS, health probes, metrics and the control socket.
