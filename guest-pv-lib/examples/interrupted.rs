//! What interrupts a program, or the way to it, and is not of its making: NMIs, a machine check, a breakpoint. And what the
//! kernel has in spite of that: its stack, its FS base, and the way back.
//!
//! Natively NMIs and machine checks must be sent from outside, as a boot test does by the emulator's monitor: each line that
//! begins with `send` says what is waited for. The last machine check interrupts the kernel, which is the end.
#![cfg_attr(target_os = "none", no_std)]
#![cfg_attr(target_os = "none", no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

use core::arch::asm;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

use guest_pv_lib::cpu::control::{debug_register, set_debug_register};
use guest_pv_lib::cpu::segments;
use guest_pv_lib::events::{self, Channel, Virq};
use guest_pv_lib::memory::Page;
use guest_pv_lib::mmu::{Access, Space};
use guest_pv_lib::platform::{self, Kind};
use guest_pv_lib::sched::{self, Shutdown};
use guest_pv_lib::traps::{self, Frame, Vector};
use guest_pv_lib::user::{Exit, Registers, UserMode};
use guest_pv_lib::{BootContext, println, time};

guest_pv_lib::entry!(kernel, name = "interrupted", version = "1");

type Step = Result<(), &'static str>;

/// A system call, and behind it a loop without end.
const PROGRAM: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfe];
const CODE: u64 = 0x40_0000;
const LOOP: u64 = CODE + 2;

/// What FS finds in the kernel.
static LOCAL: AtomicU64 = AtomicU64::new(0x5eed);
/// Memory of the kernel's that a program names as its stack.
static CANARY: [AtomicU64; 64] = [const { AtomicU64::new(0x5afe) }; 64];
/// A word with a breakpoint, how often that was hit, and where the handler's stack was.
static WATCHED: AtomicU64 = AtomicU64::new(0);
static HITS: AtomicUsize = AtomicUsize::new(0);
static STACK: AtomicU64 = AtomicU64::new(0);

fn kernel(_: BootContext) -> ! {
    #[cfg(target_os = "none")]
    match steps() {
        Ok(()) => println!("interrupted: all steps passed"),
        Err(why) => {
            println!("interrupted: some step failed: {why}");
            sched::shutdown(Shutdown::Crash)
        }
    }
    if platform::kind() == Kind::Native {
        println!("send a machine check to the kernel");
        loop {
            core::hint::spin_loop();
        }
    }
    sched::shutdown(Shutdown::PowerOff)
}

fn steps() -> Step {
    let mut space = Space::new().map_err(|_| "no memory")?;
    let page = Page::new().map_err(|_| "no memory")?;
    page.write(0, &PROGRAM);
    space.map(CODE, page, Access::READ_EXECUTE).map_err(|_| "the code is not mapped")?;
    space.activate();
    let timer = Channel::bind_virq(Virq::TIMER).map_err(|_| "no timer")?;
    timer.set_handler(|_| ());
    time::stop_periodic().map_err(|_| "no timer")?;
    events::unmask_upcalls();
    let mut user = UserMode::new();
    kernel_base(&mut user)?;
    if platform::kind() == Kind::Native {
        breakpoints(&mut user)?;
        nmis(&mut user)?;
        machine_check(&mut user)?;
    }
    Ok(())
}

/// Lets the program run for a millisecond at most.
fn run(user: &mut UserMode, registers: &mut Registers) -> Exit {
    events::without_upcalls(|| {
        // Masked, so that a tick that comes early waits for the program, which would run for ever without one.
        let _ = time::set_oneshot(time::now() + 1_000_000);
        user.run(registers)
    })
}

/// Lets the program run until it comes back by itself.
fn run_to_end(user: &mut UserMode, registers: &mut Registers) -> Exit {
    loop {
        match run(user, registers) {
            Exit::Event => {}
            exit => return exit,
        }
    }
}

/// Programs have an FS base of their own, and the kernel finds its data all the same.
fn kernel_base(user: &mut UserMode) -> Step {
    // SAFETY: nothing in this kernel finds data by FS but what is below.
    unsafe { segments::set_fs_base(&raw const LOCAL as u64) }.map_err(|_| "no FS base")?;
    type Way = fn(&mut UserMode, &mut Registers) -> Exit;
    let ways: [(Way, u64, Exit); 3] = [
        (run_to_end, CODE, Exit::Syscall),
        (run, LOOP, Exit::Event),
        (run_to_end, 1 << 63, Exit::Exception { vector: 13, error_code: 0, address: 0 }),
    ];
    for (way, rip, expected) in ways {
        if way(user, &mut Registers { fs_base: 0x1000, ..Registers::new(rip, 0) }) != expected {
            return Err("the program came back for another reason");
        }
        let found: u64;
        // SAFETY: the base is that of `LOCAL`, unless the library has left another one.
        unsafe { asm!("mov {}, fs:[0]", out(reg) found, options(nostack, readonly)) };
        if found != LOCAL.load(Relaxed) {
            return Err("the kernel's FS base is lost");
        }
    }
    println!("FS: the kernel's base is there after a program that has another");
    Ok(())
}

/// A breakpoint on the first instruction of the entry for system calls, where the stack is the program's still; and one
/// on the kernel's own data, whose handler runs on the kernel's stack.
#[cfg(target_os = "none")]
fn breakpoints(user: &mut UserMode) -> Step {
    unsafe extern "C" {
        safe static pv_native_syscall: u8;
    }
    const FIRST_EXECUTES: u64 = 1;
    const SECOND_WRITES_EIGHT_BYTES: u64 = 1 << 2 | 0b1001 << 20;
    traps::set_handler(Vector::DEBUG, Some(note_hit));
    let set = |number, value| {
        // SAFETY: the first is where the library drops it, which is what is tried here; the second is on data of this kernel.
        unsafe { set_debug_register(number, value) }.map_err(|_| "no debug register")
    };
    set(0, &raw const pv_native_syscall as u64)?;
    set(1, &raw const WATCHED as u64)?;
    set(7, FIRST_EXECUTES)?;
    let stack = &raw const CANARY as u64 + size_of_val(&CANARY) as u64;
    let mut registers = Registers::new(CODE, stack);
    let exit = run_to_end(user, &mut registers);
    let hit = debug_register(6).map_err(|_| "no debug register")? & 1 != 0;
    if exit != Exit::Syscall || registers.rsp != stack || !hit {
        return Err("a system call with a breakpoint on its entry did not arrive");
    }
    if HITS.load(Relaxed) != 0 || CANARY.iter().any(|word| word.load(Relaxed) != 0x5afe) {
        return Err("a breakpoint on the entry was pushed to the stack that the program named");
    }
    set(7, SECOND_WRITES_EIGHT_BYTES)?;
    WATCHED.store(1, Relaxed);
    set(7, 0)?;
    let here = (&raw const registers as u64).abs_diff(STACK.load(Relaxed));
    if HITS.load(Relaxed) != 1 || here > 64 << 10 {
        return Err("a breakpoint on the kernel's data did not run its handler on the kernel's stack");
    }
    println!("breakpoints: one on an entry is dropped, one on the kernel's data is handled where it was hit");
    Ok(())
}

#[cfg(not(target_os = "none"))]
fn breakpoints(_: &mut UserMode) -> Step {
    Ok(())
}

fn note_hit(frame: &mut Frame) {
    HITS.fetch_add(1, Relaxed);
    STACK.store(&raw const *frame as u64, Relaxed);
}

/// Programs do not notice NMIs, and neither does the kernel.
fn nmis(user: &mut UserMode) -> Step {
    let enough = platform::nmis() + 100;
    println!("send NMIs to the program");
    let mut registers = Registers { rbx: 77, ..Registers::new(LOOP, 0) };
    while platform::nmis() < enough {
        if run(user, &mut registers) != Exit::Event || (registers.rip, registers.rbx) != (LOOP, 77) {
            return Err("an NMI came to the program");
        }
    }
    println!("NMIs: nobody noticed");
    Ok(())
}

/// A machine check ends user mode like any exception.
fn machine_check(user: &mut UserMode) -> Step {
    println!("send a machine check to the program");
    let exit = run_to_end(user, &mut Registers::new(LOOP, 0));
    if exit != (Exit::Exception { vector: Vector::MACHINE_CHECK.number(), error_code: 0, address: 0 }) {
        return Err("something else came in place of the machine check");
    }
    // The next one resets the machine while this one is not acknowledged.
    const MCG_STATUS: u32 = 0x17a;
    // SAFETY: the register has flags of the last machine check.
    unsafe { asm!("wrmsr", in("ecx") MCG_STATUS, in("eax") 0, in("edx") 0, options(nostack)) };
    println!("machine check: it ended user mode");
    Ok(())
}
