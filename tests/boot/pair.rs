//! The driver domain of `pv-drivers/examples/pair.toml`: xenstore, a disk and a network for unmodified Linux domains, and a
//! web server that the host reaches.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use xtask::qemu::{Hypervisor, Machine};
use xtask::session::{Session, tail};
use xtask::{domains, project};

use crate::support::{LONG, trial};

/// Two Linux kernels start, and move data, on emulated CPUs that they share with whatever else the host does.
const VERY_LONG: Duration = Duration::from_secs(900);
/// What the web server of the description listens at.
pub const WEB: &str = "10.0.2.20:80";
/// Bytes that are fetched from it.
const FETCHED: usize = 300_000;

pub fn trials() -> Vec<Trial> {
    vec![trial("pair::linux_domains_have_disk_and_network_from_a_driver_domain", pair)]
}

/// Linux with its root on our disk, another one, and the web server, none of them with any device but the driver domain's.
fn pair() -> Result<()> {
    let mut machine = Machine::new(Hypervisor::Paravane);
    domains::add(&mut machine, &project::root().join("pv-drivers/examples/pair.toml"), true)?;
    let port = free_port()?;
    machine.net = true;
    machine.forwards = vec![(port, WEB.into())];
    let mut session = Session::start(&machine)?;
    session.wait_for("driver-domain: the machine has 1 network cards", LONG)?;
    session.wait_for("webserver: ", LONG)?;
    web_server(port, LONG).with_context(|| tail(&session.output()))?;
    let output = session.wait_until(VERY_LONG, |output| {
        ["(d1) ", "(d2) "].iter().all(|domain| said(output, domain, "done").is_some())
    })?;
    ensure!(output.contains("root: /dev/xvda ext4"), "its root is not on the disk\n{}", tail(&output));
    agree(&output, "(d1) ", "(d2) ")?;
    agree(&output, "(d2) ", "(d1) ")?;
    // All the while.
    web_server(port, LONG).with_context(|| tail(&session.output()))
}

/// Whether the domain whose lines start with `domain` reached the other one, and has now what that one has.
pub fn agree(output: &str, domain: &str, other: &str) -> Result<()> {
    let line = |of: &str, what: &str| {
        said(output, of, what).with_context(|| format!("no `{what}` of {of}\n{}", tail(output)))
    };
    let ping = line(domain, "ping ")?;
    ensure!(ping.starts_with("5 packets received"), "{domain}{ping}");
    let (sent, fetched) = (line(other, "serving ")?, line(domain, "fetched ")?);
    ensure!(sent.starts_with("2097152 bytes ") && fetched.starts_with(sent), "{sent} became {fetched}");
    let kept = line(domain, "kept ")?;
    ensure!(kept.len() == 64 && sent.ends_with(kept), "{sent} is {kept} on the disk");
    Ok(())
}

/// What a domain said behind `pair: <what>`.
fn said<'a>(output: &'a str, domain: &str, what: &str) -> Option<&'a str> {
    let mine = output.lines().filter(|line| line.starts_with(domain));
    let start = format!("pair: {what}");
    mine.filter_map(|line| line.find(&start).map(|at| line[at + start.len()..].trim_end())).next()
}

/// A port of the host that nobody uses.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Its page and a longer answer, byte by byte, both within some time.
pub fn web_server(port: u16, limit: Duration) -> Result<()> {
    let page = String::from_utf8_lossy(&get(port, "/", limit)?).into_owned();
    ensure!(page.starts_with("<!DOCTYPE html>"), "no page: {page}");
    let bytes = get(port, &format!("/bytes/{FETCHED}"), limit)?;
    ensure!(bytes.len() == FETCHED, "{} bytes", bytes.len());
    let wrong = bytes.iter().enumerate().position(|(n, byte)| usize::from(*byte) != n % 251);
    ensure!(wrong.is_none(), "byte {wrong:?} is wrong");
    Ok(())
}

/// The body of an answer.
fn get(port: u16, path: &str, limit: Duration) -> Result<Vec<u8>> {
    let end = Instant::now() + limit;
    loop {
        match try_get(port, path) {
            Ok(body) => return Ok(body),
            // The server may not listen yet.
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_secs(1)),
            Err(why) => return Err(why),
        }
    }
}

fn try_get(port: u16, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: paravane\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { bail!("no header") };
    let header = String::from_utf8_lossy(&answer[..end]);
    ensure!(header.lines().next().is_some_and(|line| line.contains(" 200 ")), "{header}");
    Ok(answer.split_off(end + 4))
}
