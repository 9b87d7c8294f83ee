//! A kernel that reads lines from its console and answers them, by the traits of `embedded-io` and the macros of `log`.
//! An empty line ends it.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]

use embedded_io::{Read, Write};
use guest_pv_lib::console::{self, Console};
use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::{BootContext, println};

guest_pv_lib::entry!(kernel, name = "echo", version = "1");

fn kernel(_: BootContext) -> ! {
    if console::init_log(log::LevelFilter::Info).is_err() {
        println!("echo: there is a logger already");
        sched::shutdown(Shutdown::Crash);
    }
    log::debug!("not to be seen");
    log::info!("type something");
    let mut line = [0; 256];
    loop {
        let len = read_line(&mut line);
        if len == 0 {
            log::warn!("done");
            sched::shutdown(Shutdown::PowerOff);
        }
        // The console's error is one that cannot be.
        let (Ok(()), Ok(()), Ok(())) =
            (Console.write_all(b"echo: <"), Console.write_all(&line[..len]), Console.write_all(b">\n"));
    }
}

/// Reads up to the end of a line, which it leaves out, and returns how many bytes that was. What does not fit is lost.
fn read_line(line: &mut [u8]) -> usize {
    let mut len = 0;
    loop {
        let mut byte = [0];
        let Ok(_) = Console.read(&mut byte);
        match byte[0] {
            b'\r' | b'\n' => return len,
            byte if len < line.len() => {
                line[len] = byte;
                len += 1;
            }
            _ => {}
        }
    }
}
