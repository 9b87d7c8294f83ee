# Entries from guests and interrupts, and the way back. Operands in braces come from `trap/entry.rs`.
#
# On every stack of a CPU the frame is `hypervisor_core::regs::Regs`; a frame from a guest stands right below PerCpu, at a
# multiple of 16. Interrupts are off from the entry until Rust (or the hypercall path here) enables them, and off
# again from `exit_to_guest` to the instruction that leaves.

.section .text
.macro SAVE_REGS
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rax
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
.endm

.macro RESTORE_REGS
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rax
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
.endm

# One stub of 16 bytes for each vector; those without a hardware error code push 0 in its place.
.balign 16
.global trap_stubs
.type trap_stubs, @function
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    pushq $0
    .endif
    pushq $vector
    .if (vector == 2) || (vector == 8) || (vector == 18)
    jmp trap_own_stack
    .elseif vector == 1
    jmp trap_debug
    .else
    jmp trap_common
    .endif
    .set vector, vector + 1
.endr
.size trap_stubs, . - trap_stubs

.type trap_common, @function
trap_common:
    SAVE_REGS
    cld
    movq %rsp, %rdi
    testb $3, {cs}(%rsp)
    jz .Lfrom_hypervisor
    xorl %ebp, %ebp
    call trap_from_guest
    jmp exit_to_guest
.Lfrom_hypervisor:
    call trap_from_hypervisor
    RESTORE_REGS
    addq $16, %rsp
    iretq
.size trap_common, . - trap_common

# NMI, double fault, machine check: on stacks of their own, and back to wherever they hit, without exit work.
.type trap_own_stack, @function
trap_own_stack:
    SAVE_REGS
    cld
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call trap_on_own_stack
    RESTORE_REGS
    addq $16, %rsp
    iretq
.size trap_own_stack, . - trap_own_stack

# #DB. A guest can make it hit the first instruction of the syscall stub, where rsp is still the guest's (`mov ss` with a
# watchpoint, then `syscall`): hence a stack of its own. One from a guest moves to the main stack, because it ends
# in the exit path.
.type trap_debug, @function
trap_debug:
    testb $3, 24(%rsp)
    jz trap_own_stack
    pushq %rax
    pushq %rcx
    movq %rsp, %rax
    andq $-{cpu_area}, %rax
    addq ${cpu_area} - {percpu_size} - 7 * 8, %rax
    .irp slot, 0, 8, 16, 24, 32, 40, 48
    movq 16 + \slot(%rsp), %rcx
    movq %rcx, \slot(%rax)
    .endr
    popq %rcx
    xchgq (%rsp), %rax
    movq (%rsp), %rsp
    jmp trap_common
.size trap_debug, . - trap_debug

# `syscall` from ring 3, after the CPU's stub stored the guest's stack pointer and loaded rsp with the address of PerCpu.
# rcx = return address, r11 = flags; IA32_FMASK cleared IF, TF, DF, AC, NT.
.balign 16
.global syscall_entry
.type syscall_entry, @function
syscall_entry:
    pushq ${guest_ss}
    pushq {percpu_syscall_rsp} + 8(%rsp)
    pushq %r11
    pushq ${guest_cs}
    pushq %rcx
    pushq $0
    pushq ${vector_syscall}
    SAVE_REGS
    movq %rsp, %rdi
    xorl %ebp, %ebp
    movq {regs_size} + {percpu_pv}(%rsp), %rbx
    cmpl $0, {pv_kernel_mode}(%rbx)
    je .Luser_syscall
    sti
    call hypercall_from_guest
    jmp exit_to_guest
.Luser_syscall:
    call syscall_from_user
    jmp exit_to_guest
.size syscall_entry, . - syscall_entry

# Leaves to the guest whose registers are right below PerCpu. Also where a CPU goes that has chosen its first vCPU.
.balign 16
.global exit_to_guest
.type exit_to_guest, @function
exit_to_guest:
    cli
    cmpl $0, {regs_size} + {percpu_work}(%rsp)
    jne .Lwork
    movq {regs_size} + {percpu_vcpu_info}(%rsp), %rax
    movzwl (%rax), %ecx             # low byte: upcall pending, high byte: upcalls masked
    decl %ecx
    cmpl $0xff, %ecx                # pending, not masked: 1..=255 before the decrement
    jb .Lwork
.Lleave:
    cmpl ${vector_syscall}, {vector}(%rsp)
    jne .Liret
    movq {rip}(%rsp), %rcx          # a non-canonical rip would fault in ring 0 on Intel's sysret
    movq %rcx, %rax
    shlq $16, %rax
    sarq $16, %rax
    cmpq %rax, %rcx
    jne .Liret
    RESTORE_REGS
    movq 16(%rsp), %rcx
    movq 32(%rsp), %r11
    movq 40(%rsp), %rsp
    sysretq
.Liret:
    RESTORE_REGS
    addq $16, %rsp
.global guest_iret
guest_iret:
    iretq
.Lwork:
    movq %rsp, %rdi
    call exit_work
    testb %al, %al
    jnz exit_to_guest               # something changed: look again
    cli
    jmp .Lleave
.size exit_to_guest, . - exit_to_guest

# Jumps into the exit path with the frame below PerCpu: a CPU's first way to a guest. rdi = address of the frame.
.global enter_guest
.type enter_guest, @function
enter_guest:
    movq %rdi, %rsp
    jmp exit_to_guest
.size enter_guest, . - enter_guest

# `syscall` from 32-bit code (AMD), and `sysenter`, which tells neither where it came from nor where the stack was: the guest's
# convention keeps what it needs in registers, and the guest kernel is told zeros, as Xen does.
.type syscall32_entry, @function
.global syscall32_entry
syscall32_entry:
    pushq ${guest_ss}
    pushq {percpu_syscall_rsp} + 8(%rsp)
    pushq %r11
    pushq ${guest_cs32}
    movl %ecx, %ecx
    pushq %rcx
    pushq $0
    pushq ${vector_syscall32}
    SAVE_REGS
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call syscall32_from_guest
    jmp exit_to_guest
.size syscall32_entry, . - syscall32_entry

.type sysenter_entry, @function
.global sysenter_entry
sysenter_entry:
    pushq ${guest_ss}
    pushq $0
    # `sysenter` clears IF and nothing else: the guest's TF has been stepping since the first instruction (`trap_on_own_stack`
    # lets it be saved and then clears it), its NT would make `iretq` fault, its AC would open the SMAP gate.
    pushfq
.global sysenter_flags_saved
sysenter_flags_saved:
    pushq $2
    popfq
    orq $0x200, (%rsp)
    pushq $3
    pushq $0
    pushq $0
    pushq ${vector_sysenter}
    SAVE_REGS
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call sysenter_from_guest
    jmp exit_to_guest
.size sysenter_entry, . - sysenter_entry
