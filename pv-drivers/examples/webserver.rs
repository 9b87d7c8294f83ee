//! A kernel that is a web server: smoltcp over the network front end. It serves a page, the same figures as plain text, and
//! as many bytes as somebody wants to measure with.
//!
//! Command line: `address=10.0.2.20/24`, `gateway=10.0.2.2` (none: only the local network is reached), `port=80`.
//!
//! ```text
//! GET /              a page with the figures below
//! GET /statistics    one line for each: its name and its value
//! GET /bytes/N       N bytes; byte number i is i modulo 251
//! ```
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

extern crate alloc;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;
use core::str::FromStr;
use core::time::Duration;

use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::{BootContext, println, xenstore};
use pv_drivers::net::front::{self, Net, Queue};
use pv_drivers::transport::Transport;
use pv_drivers::transport::guest::Guest;
use pv_drivers::xenbus::{Bus, Device, End};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};

guest_pv_lib::entry!(kernel, name = "webserver", version = "1");

/// Connections that are served at once.
const CONNECTIONS: usize = 8;
/// The longest request that is read.
const LONGEST_REQUEST: usize = 2048;

fn kernel(boot: BootContext) -> ! {
    match serve(&boot) {
        // It waits for the next one as from the start.
        Ok(()) => sched::shutdown(Shutdown::Reboot),
        Err(why) => {
            println!("webserver: {why}");
            sched::shutdown(Shutdown::Crash)
        }
    }
}

/// What the command line says of `key`.
fn option<V: FromStr>(boot: &BootContext, key: &str) -> Option<V> {
    let line = core::str::from_utf8(boot.command_line()).ok()?;
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?.parse().ok()
}

/// Connects the device and answers until it goes away.
fn serve(boot: &BootContext) -> Result<(), &'static str> {
    let address: IpCidr = option(boot, "address").ok_or("no address=a.b.c.d/n on the command line")?;
    let port = option(boot, "port").unwrap_or(80);
    let store = xenstore::connect(boot).map_err(|_| "no xenstore")?;
    let bus = Bus::new(Guest::new(store));
    let path = bus.front_ends("vif").into_iter().next().ok_or("no network device")?;
    let end = End::front(&bus, &path).map_err(|_| "the network device names no back end")?;
    let mut device = Device::new(end, Net::new(1));
    while !device.is_connected() {
        if !(bus.poll() | device.poll()) {
            bus.transport().wait(Some(Duration::from_millis(100)));
        }
        if device.is_closed() {
            return Err("the network device does not connect");
        }
    }
    let mac = device.driver().mac().ok_or("the network device has no address")?;
    println!("webserver: {mac} at {address}, port {port}");
    let transport = bus.transport();
    let queue = device.driver_mut().queues().first_mut().ok_or("the network device has no queue")?;
    let config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
    let mut interface = Interface::new(config, queue, now(transport));
    interface.update_ip_addrs(|all| all.push(address).unwrap_or_default());
    if let Some(gateway) = option::<Ipv4Address>(boot, "gateway") {
        // The table has room for the first route.
        let _ = interface.routes_mut().add_default_ipv4_route(gateway);
    }
    let mut server = Server::new(port);
    while device.is_connected() {
        let changed = bus.poll() | device.poll() | front::check(&mut device);
        if changed {
            continue;
        }
        let Some(queue) = device.driver_mut().queues().first_mut() else { break };
        let _ = queue.take_event();
        server.round(&mut interface, queue, now(transport));
        if !queue.sleep() {
            let delay = interface.poll_delay(now(transport), &server.sockets);
            transport.wait(delay.map(|delay| Duration::from_micros(delay.total_micros())));
        }
    }
    println!("webserver: the network device is gone");
    Ok(())
}

fn now(transport: &impl Transport) -> Instant {
    Instant::from_micros(i64::try_from(transport.now().as_micros()).unwrap_or(i64::MAX))
}

/// What a connection is at.
enum Work {
    /// Its request is being read.
    Reading(Vec<u8>),
    /// An answer is being sent: what of it was not sent yet, and the pattern behind it.
    Sending { head: Vec<u8>, sent: usize, pattern: u64, at: u64 },
    /// Everything was sent.
    Closing,
}

/// All connections, and what was counted.
struct Server {
    port: u16,
    sockets: SocketSet<'static>,
    connections: Vec<(SocketHandle, Work)>,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    requests: u64,
    refused: u64,
    answered_bytes: u64,
}

impl Server {
    fn new(port: u16) -> Self {
        let mut sockets = SocketSet::new(Vec::new());
        let connections = (0..CONNECTIONS)
            .map(|_| {
                let [receive, send] = [8192, 65535].map(|size| tcp::SocketBuffer::new(vec![0; size]));
                (sockets.add(tcp::Socket::new(receive, send)), Work::Reading(Vec::new()))
            })
            .collect();
        Self { port, sockets, connections, figures: Figures::default() }
    }

    /// Takes what came, works on each connection, and sends.
    fn round<T: Transport>(&mut self, interface: &mut Interface, queue: &mut Queue<T>, now: Instant) {
        interface.poll(now, queue, &mut self.sockets);
        for (handle, work) in &mut self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket>(*handle);
            if !socket.is_open() {
                *work = Work::Reading(Vec::new());
                // Refused only where the port is 0: then nobody is served.
                let _ = socket.listen(self.port);
            }
            if let Work::Reading(request) = work
                && let Some(path) = read_request(socket, request)
            {
                self.figures.requests += 1;
                *work = answer(&path, &mut self.figures, queue);
            }
            if let Work::Sending { head, sent, pattern, at } = work
                && send(socket, head, sent, *pattern, at, &mut self.figures)
            {
                socket.close();
                *work = Work::Closing;
            }
            // A peer that has gone away before it asked, or while it was answered.
            if !socket.may_recv()
                && matches!(work, Work::Reading(_))
                && socket.state() == tcp::State::CloseWait
            {
                socket.close();
                *work = Work::Closing;
            }
        }
        interface.poll(now, queue, &mut self.sockets);
    }
}

/// Adds what came to `request`; the path once the header is complete. A request that is too long has none.
fn read_request(socket: &mut tcp::Socket<'_>, request: &mut Vec<u8>) -> Option<String> {
    while socket.can_recv() {
        let taken = socket.recv(|bytes| {
            request.extend_from_slice(bytes);
            (bytes.len(), ())
        });
        if taken.is_err() {
            return None;
        }
        if request.windows(4).any(|end| end == b"\r\n\r\n") {
            let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let line = core::str::from_utf8(line).unwrap_or_default();
            return Some(
                line.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()).unwrap_or("").into(),
            );
        }
        if request.len() > LONGEST_REQUEST {
            return Some(String::new());
        }
    }
    None
}

/// The answer to a request for `path`.
fn answer<T: Transport>(path: &str, figures: &mut Figures, queue: &Queue<T>) -> Work {
    let bytes = path.strip_prefix("/bytes/").and_then(|count| count.parse::<u64>().ok());
    let (status, kind, body) = match path {
        "/" => ("200 OK", "text/html", page(figures, queue)),
        "/statistics" => ("200 OK", "text/plain", statistics(figures, queue)),
        _ if bytes.is_some() => ("200 OK", "application/octet-stream", String::new()),
        _ => {
            figures.refused += 1;
            ("404 Not Found", "text/plain", "There is nothing here.\n".into())
        }
    };
    let pattern = bytes.unwrap_or(0);
    let length = body.len() as u64 + pattern;
    let mut head = String::new();
    // Writing to a string does not fail.
    let _ = write!(
        head,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    Work::Sending { head: head.into_bytes(), sent: 0, pattern, at: 0 }
}

/// Sends as much as there is room for; true: that was all.
fn send(
    socket: &mut tcp::Socket<'_>,
    head: &[u8],
    sent: &mut usize,
    pattern: u64,
    at: &mut u64,
    figures: &mut Figures,
) -> bool {
    while socket.can_send() && (*sent < head.len() || *at < pattern) {
        let count = if *sent < head.len() {
            let count = socket.send_slice(&head[*sent..]).unwrap_or(0);
            *sent += count;
            count
        } else {
            let count = socket.send(|room| fill(room, *at, pattern - *at)).unwrap_or(0);
            *at += count as u64;
            count
        };
        figures.answered_bytes += count as u64;
        if count == 0 {
            break;
        }
    }
    *sent == head.len() && *at == pattern
}

/// Writes at most `count` bytes of the pattern from byte `at` on.
fn fill(room: &mut [u8], at: u64, count: u64) -> (usize, usize) {
    let length = usize::try_from(count).unwrap_or(usize::MAX).min(room.len());
    // Below 251.
    let first = u8::try_from(at % 251).unwrap_or(0);
    let pattern = (0..251u8).cycle().skip(first.into());
    room[..length].iter_mut().zip(pattern).for_each(|(byte, value)| *byte = value);
    (length, length)
}

/// The figures, one a line.
fn statistics<T: Transport>(figures: &Figures, queue: &Queue<T>) -> String {
    let (sent, received) = (queue.tx.counters(), queue.rx.counters());
    let mut text = String::new();
    for (name, value) in [
        ("requests", figures.requests),
        ("requests_refused", figures.refused),
        ("answered_bytes", figures.answered_bytes),
        ("sent_packets", sent.packets),
        ("sent_bytes", sent.bytes),
        ("sent_errors", sent.errors),
        ("received_packets", received.packets),
        ("received_bytes", received.bytes),
        ("received_errors", received.errors),
        ("uptime_milliseconds", guest_pv_lib::time::now() / 1_000_000),
    ] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

/// The page.
fn page<T: Transport>(figures: &Figures, queue: &Queue<T>) -> String {
    let mut text = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>webserver</title></head><body>\n\
         <h1>A kernel of its own</h1>\n<p>This page comes from a paravirtual guest without an operating system: \
         guest-pv-lib, the network front end of pv-drivers, and smoltcp.</p>\n<table>\n",
    );
    for line in statistics(figures, queue).lines() {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        // Writing to a string does not fail.
        let _ = writeln!(text, "<tr><td>{name}</td><td>{value}</td></tr>");
    }
    text.push_str("</table>\n</body></html>\n");
    text
}
