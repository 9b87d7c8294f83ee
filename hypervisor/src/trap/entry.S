# Entries from guests and interrupts, and the way back. Operands in braces come from `trap/entry.rs`.
#
# On every stack of a CPU the frame is `hypervisor_core::regs::Regs`; a frame from a guest stands right below PerCpu, at a
# multiple of 16. Interrupts are off from the entry until Rust (or the hypercall path here) enables them, and off
# again from `exit_to_guest` to the instruction that leaves.

.section .entry_text, "ax"
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

# As `mm::uaccess` has it: guest memory is in reach between these two.
.macro OPEN_GATE
    testb ${gate_smap}, {gate}(%rip)
    jz 8f
    stac
8:
.endm

.macro CLOSE_GATE
    testb ${gate_smap}, {gate}(%rip)
    jz 8f
    clac
8:
.endm

# An isolated vCPU ran on a copy of its root (`cpu::isolation`), which has no more of the hypervisor than this file's code and the
# CPU's area: loads the root that has everything. `at` is where PerCpu lies from `base`. Uses rax.
.macro LOAD_FULL_ROOT at, base
    testb ${isolated}, \at + {percpu_isolated}(\base)
    jz 6f
    movq \at + {percpu_full_cr3}(\base), %rax
    movq %rax, %cr3
6:
.endm

# Entries by the IDT look at one word of this CPU's for all that they may have to do before Rust runs (PERCPU_ON_ENTRY): bit
# `isolated` is the root, bit `entry_smap` the gate. An exception or interrupt, unlike `syscall`, keeps the AC flag of the code that
# it meets, the guest's own or that of a copy of the hypervisor's; handlers start with the gate closed all the same, and `iretq`
# gives the interrupted code its flag back. `at` is where PerCpu lies from `base`.
.macro CLOSE_GATE_ON_ENTRY at, base
    testb ${entry_smap}, \at + {percpu_on_entry}(\base)
    jz 8f
    clac
8:
.endm

# The root for an entry from ring 0, which may have come from between a load of CR3 and `iretq`; PerCpu's area starts at rax. Leaves
# in rbx what CR3 was if it was a copy. Uses rcx.
.macro LOAD_FULL_ROOT_IF_COPY
    testb ${isolated}, {cpu_area} - {percpu_size} + {percpu_on_entry}(%rax)
    jz 7f
    movq %cr3, %rcx
    cmpq {cpu_area} - {percpu_size} + {percpu_guest_cr3}(%rax), %rcx
    jne 7f
    movq %rcx, %rbx
    movq {cpu_area} - {percpu_size} + {percpu_full_cr3}(%rax), %rcx
    movq %rcx, %cr3
7:
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
    .if (vector == 8) || (vector == 18)
    jmp trap_own_stack
    .elseif (vector == 1) || (vector == 2)
    jmp trap_by_origin
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
    cmpl $0, {regs_size} + {percpu_on_entry}(%rsp)
    jne .Lprepare
.Lprepared:
    xorl %ebp, %ebp
    call trap_from_guest
    jmp exit_to_guest
.Lprepare:
    LOAD_FULL_ROOT {regs_size}, %rsp
    CLOSE_GATE_ON_ENTRY {regs_size}, %rsp
    jmp .Lprepared
.Lfrom_hypervisor:
    movq %rsp, %rax
    andq $-{cpu_area}, %rax
    cmpl $0, {cpu_area} - {percpu_size} + {percpu_on_entry}(%rax)
    jne 2f
1:  call trap_from_hypervisor
    RESTORE_REGS
    addq $16, %rsp
    iretq
2:  LOAD_FULL_ROOT_IF_COPY          # only an `iretq` to a guest faults there, and that never comes back here
    CLOSE_GATE_ON_ENTRY {cpu_area} - {percpu_size}, %rax
    jmp 1b
.size trap_common, . - trap_common

# NMI, double fault, machine check: on stacks of their own, and back to wherever they hit, without exit work.
.type trap_own_stack, @function
trap_own_stack:
    SAVE_REGS
    cld
    movq %rsp, %rdi
    xorl %ebp, %ebp
    xorl %ebx, %ebx
    movq %rsp, %rax
    andq $-{cpu_area}, %rax
    LOAD_FULL_ROOT_IF_COPY
    CLOSE_GATE_ON_ENTRY {cpu_area} - {percpu_size}, %rax
    call trap_on_own_stack
    testq %rbx, %rbx
    jz 1f
    movq %rbx, %cr3
1:  RESTORE_REGS
    addq $16, %rsp
    iretq
.size trap_own_stack, . - trap_own_stack

# #DB and NMI. A guest can make the first one hit the first instruction of the syscall stub, where rsp is still the guest's (`mov ss` with a
# watchpoint, then `syscall`): hence a stack of its own. One from a guest moves to the main stack, because it ends
# in the exit path.
.type trap_by_origin, @function
trap_by_origin:
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
.size trap_by_origin, . - trap_by_origin

# Fills what the quick ways leave open of the frame at rsp: rip, rflags and the other caller-saved registers are there,
# the callee-saved ones still in place. Uses rcx.
.macro COMPLETE_FRAME
    movq %rbx, {rbx}(%rsp)
    movq %rbp, {rbp}(%rsp)
    movq %r12, {r12}(%rsp)
    movq %r13, {r13}(%rsp)
    movq %r14, {r14}(%rsp)
    movq %r15, {r15}(%rsp)
    movq {rip}(%rsp), %rcx
    movq %rcx, {rcx}(%rsp)
    movq {rflags}(%rsp), %rcx
    movq %rcx, {r11}(%rsp)
    movq {regs_size} + {percpu_syscall_rsp}(%rsp), %rcx
    movq %rcx, {rsp}(%rsp)
    movq ${guest_cs}, {cs}(%rsp)
    movq ${guest_ss}, {ss}(%rsp)
    movq $0, {error_code}(%rsp)
    movq ${vector_syscall}, {vector}(%rsp)
.endm

# Goes to `bad` when rdx is in the hypervisor's part of the address space or not canonical. What it names beside that may
# still fault. Uses rax.
.macro CHECK_GUEST_ADDRESS bad
    movabsq ${hypervisor_end}, %rax
    cmpq %rax, %rdx
    jae 9f
    movq %rdx, %rax
    shrq $47, %rax
    jnz \bad
9:
.endm

# `syscall` from ring 3, after the CPU's stub stored the guest's stack pointer and loaded rsp with the address of PerCpu.
# rcx = return address, r11 = flags; IA32_FMASK cleared IF, TF, DF, AC, NT.
#
# Three quick ways save only what they use and leave by themselves: hypercalls that have a function in `pv::quick`, the
# `iret` hypercall, and a system call of the guest's user code. Where anything is not as usual (work was raised, the vCPU is
# isolated, which the same comparison tells, an upcall is due), they complete the frame and take the way of all others.
.balign 64
.global syscall_entry_isolated
.type syscall_entry_isolated, @function
syscall_entry_isolated:
    pushq %rax
    LOAD_FULL_ROOT 8, %rsp
    popq %rax
    jmp syscall_entry
.size syscall_entry_isolated, . - syscall_entry_isolated

.balign 64
.global syscall_entry
.type syscall_entry, @function
syscall_entry:
    subq ${regs_size}, %rsp
    movq %rdi, {rdi}(%rsp)
    movq %rcx, {rip}(%rsp)
    movq {regs_size} + {percpu_pv}(%rsp), %rcx
    cmpl $0, {pv_kernel_mode}(%rcx)
    je .Luser_syscall
    cmpl ${nr_iret}, %eax           # the number has 32 bits
    je .Liret_hypercall
    movq %rsi, {rsi}(%rsp)
    movq %rdx, {rdx}(%rsp)
    movq %r8, {r8}(%rsp)
    movq %r9, {r9}(%rsp)
    movq %r10, {r10}(%rsp)
    movq %rax, {rax}(%rsp)
    movq %r11, {rflags}(%rsp)
    cmpl ${hypercalls}, %eax
    jae .Lhypercall
    sbbl %ecx, %ecx                 # 0 instead of -1 where the CPU only guesses that the number is one of the table's
    andl %ecx, %eax
    leaq {quick_hypercalls}(%rip), %rcx
    sti
    call *(%rcx,%rax,8)             # rax = result; rdx = 0, or it is not one for the quick way
    cli
    testl %edx, %edx
    jnz .Lhypercall
    cmpq $0, {regs_size} + {percpu_work}(%rsp)
    jne .Lquick_work
    movq {regs_size} + {percpu_vcpu_info}(%rsp), %rcx
    cmpb $0, (%rcx)                 # an upcall is pending, perhaps masked: the other way looks
    jne .Lquick_work
    movq {rip}(%rsp), %rcx          # behind an instruction that was executed, so only 1 << 47 is not canonical;
    movq %rcx, %r11                 # that would fault in ring 0 on Intel's sysret
    shrq $47, %r11
    cmpl $1, %r11d
    je .Lquick_work
    movq {rflags}(%rsp), %r11
    movq {rdi}(%rsp), %rdi
    movq {rsi}(%rsp), %rsi
    movq {rdx}(%rsp), %rdx
    movq {r8}(%rsp), %r8
    movq {r9}(%rsp), %r9
    movq {r10}(%rsp), %r10
    movq {regs_size} + {percpu_syscall_rsp}(%rsp), %rsp
    sysretq
.Lquick_work:
    movq %rax, {rax}(%rsp)
    COMPLETE_FRAME
    jmp exit_to_guest
.global no_quick_way
.type no_quick_way, @function
no_quick_way:
    addq $8, %rsp                   # the call to here
.Lhypercall:
    COMPLETE_FRAME
    movq %rsp, %rdi
    xorl %ebp, %ebp
    sti
    call hypercall_from_guest
    jmp exit_to_guest

# The guest's user code calls its kernel, which finds the frame of `pv::bounce`. Only for a vCPU whose upcalls are neither
# masked nor pending. rdi = PvState.
.Luser_syscall:
    movq %rcx, %rdi
    movq {rip}(%rsp), %rcx
    movq %rax, {rax}(%rsp)
    movq %rsi, {rsi}(%rsp)
    movq %rdx, {rdx}(%rsp)
    cmpq $0, {regs_size} + {percpu_work}(%rsp)
    jne .Luser_slow
    movq {regs_size} + {percpu_vcpu_info}(%rsp), %rsi
    cmpw $0, (%rsi)
    jne .Luser_slow
    movq {regs_size} + {percpu_vm_assist}(%rsp), %rax
    testl ${assist_iopl}, (%rax)
    jnz .Luser_slow
    movq {pv_syscall_callback}(%rdi), %rax
    testq %rax, %rax
    jz .Luser_slow
    sarq $47, %rax                  # 0 or -1, or sysret would fault
    incq %rax
    cmpq $1, %rax
    ja .Luser_slow
    movq {pv_kernel_sp}(%rdi), %rdx
    andq $-16, %rdx
    subq $7 * 8, %rdx
    CHECK_GUEST_ADDRESS .Luser_slow
    swapgs
    movl $1, {pv_kernel_mode}(%rdi)
    movq {pv_guest_table}(%rdi), %rax
    shlq $12, %rax
    movq %rax, %cr3
    OPEN_GATE
.Luser_frame:
    movq %rcx, (%rdx)
    movq %r11, 8(%rdx)
    movq %rcx, 16(%rdx)
    movq ${guest_cs}, 24(%rdx)
    movq %r11, 32(%rdx)
    movq {regs_size} + {percpu_syscall_rsp}(%rsp), %rax
    movq %rax, 40(%rdx)
    movq ${guest_ss}, 48(%rdx)
.Luser_frame_end:
    CLOSE_GATE
    testl ${syscall_masks_events}, {pv_flags}(%rdi)
    jz 1f
    movb $1, 1(%rsi)
1:  andq $~{syscall_clears}, %r11
    movq {pv_syscall_callback}(%rdi), %rcx
    movq %rdx, {rsp}(%rsp)
    movq {rax}(%rsp), %rax
    movq {rdx}(%rsp), %rdx
    movq {rsi}(%rsp), %rsi
    movq {rdi}(%rsp), %rdi
    movq {rsp}(%rsp), %rsp
    sysretq
# The kernel's stack cannot be written: back to user mode, which the way of all others leaves anew and then says so.
.Luser_fault:
    CLOSE_GATE
    swapgs
    movl $0, {pv_kernel_mode}(%rdi)
.Luser_slow:
    movq %rcx, {rip}(%rsp)
    movq %r11, {rflags}(%rsp)
    movq %r8, {r8}(%rsp)
    movq %r9, {r9}(%rsp)
    movq %r10, {r10}(%rsp)
    COMPLETE_FRAME
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call syscall_from_user
    jmp exit_to_guest

# The `iret` hypercall of `pv::iret`, for one that ends no NMI and lets no upcall become due, of a domain without linear
# entries, whose frame needs no further check. rdi = PvState. What `iretq`
# needs goes to its place in the frame; rip and rflags of the hypercall itself are kept in those of rcx and r11.
.Liret_hypercall:
    movq %rcx, %rdi
    movq {rip}(%rsp), %rcx
    movq %rcx, {rcx}(%rsp)
    movq %r11, {r11}(%rsp)
    movq %rsi, {rsi}(%rsp)
    movq %rdx, {rdx}(%rsp)
    cmpq $0, {regs_size} + {percpu_work}(%rsp)
    jne .Liret_slow
    movq {regs_size} + {percpu_vm_assist}(%rsp), %rax
    testl ${assist_iopl}, (%rax)
    jnz .Liret_slow
    testl ${iret_slowly}, {pv_flags}(%rdi)
    jnz .Liret_slow
    movq {regs_size} + {percpu_syscall_rsp}(%rsp), %rdx
    CHECK_GUEST_ADDRESS .Liret_slow
    OPEN_GATE
.Liret_frame:
    testb $1, 24 + 1(%rdx)          # VGCF_in_syscall
    jnz .Liret_close
    movzwl 40(%rdx), %esi           # cs: 3 in its lowest bits is user mode
    notl %esi
    testb $3, %sil
    jnz 1f
    cmpq $0, {pv_guest_table_user}(%rdi)
    je .Liret_close
1:  movzwl 64(%rdx), %eax
    orl $3, %eax
    movq %rax, {ss}(%rsp)
    movq 56(%rdx), %rax
    movq %rax, {rsp}(%rsp)
    movq 32(%rdx), %rax
    movq %rax, {rip}(%rsp)
    movzwl 40(%rdx), %eax
    orl $3, %eax
    movq %rax, {cs}(%rsp)
    movq 48(%rdx), %r11             # rflags: its interrupt flag is the inverse of the upcall mask
    movq {regs_size} + {percpu_vcpu_info}(%rsp), %rax
    btl $9, %r11d
    jnc 2f
    cmpb $0, (%rax)
    jne .Liret_close
    movb $0, 1(%rax)
    jmp 3f
2:  cmpb $0, 1(%rax)
    jne 3f
    movb $1, 1(%rax)
3:  andq $~{rflags_forbidden}, %r11
    orq ${rflags_always}, %r11
    movq %r11, {rflags}(%rsp)
    movq (%rdx), %rax
    movq 8(%rdx), %r11
    movq 16(%rdx), %rcx
.Liret_frame_end:
    CLOSE_GATE
    testb $3, %sil
    jnz 4f
    swapgs
    movl $0, {pv_kernel_mode}(%rdi)
    movq {pv_guest_table_user}(%rdi), %rdx
    shlq $12, %rdx
    movq %rdx, %cr3
4:  movq {rdx}(%rsp), %rdx
    movq {rsi}(%rsp), %rsi
    movq {rdi}(%rsp), %rdi
    addq ${rip}, %rsp
    jmp guest_iret
.Liret_close:
    CLOSE_GATE
.Liret_slow:
    movq {rcx}(%rsp), %rcx
    movq %rcx, {rip}(%rsp)
    movq {r11}(%rsp), %rcx
    movq %rcx, {rflags}(%rsp)
    movq ${nr_iret}, {rax}(%rsp)
    movq %r8, {r8}(%rsp)
    movq %r9, {r9}(%rsp)
    movq %r10, {r10}(%rsp)
    jmp .Lhypercall
.size syscall_entry, . - syscall_entry

.pushsection .fixup_table, "a"
.quad .Luser_frame, .Luser_frame_end, .Luser_fault
.quad .Liret_frame, .Liret_frame_end, .Liret_close
.popsection

# Goes to `due` when an upcall is pending and not masked. Uses rax, rcx.
.macro JUMP_IF_UPCALL due
    movq {regs_size} + {percpu_vcpu_info}(%rsp), %rax
    movzwl (%rax), %ecx             # low byte: upcall pending, high byte: upcalls masked
    decl %ecx
    cmpl $0xff, %ecx                # pending, not masked: 1..=255 before the decrement
    jb \due
.endm

# Leaves to the guest whose registers are right below PerCpu. Also where a CPU goes that has chosen its first vCPU.
.balign 16
.global exit_to_guest
.type exit_to_guest, @function
exit_to_guest:
    cli
    cmpq $0, {regs_size} + {percpu_work}(%rsp)
    jne .Lwork_or_isolated          # as on the quick ways, one comparison for both
    JUMP_IF_UPCALL .Lwork
.Lleave_now:
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
# After the load of CR3 only this code, the CPU's area and the guest's memory are there.
.Lleave_isolated:
    testb ${isolated}, {regs_size} + {percpu_isolated}(%rsp)
    jz 1f
    call isolated_root
    movq %rax, %cr3
1:  testb ${verw}, {regs_size} + {percpu_isolated}(%rsp)
    jz .Lleave_now
    incq {regs_size} + {percpu_verws}(%rsp)
    verw .Ldata_selector(%rip)
    jmp .Lleave_now
.Ldata_selector:
    .word {hv_ss}
.Lwork_or_isolated:
    cmpl $0, {regs_size} + {percpu_work}(%rsp)
    jne .Lwork
    JUMP_IF_UPCALL .Lwork
.Lleave:
    cmpl $0, {regs_size} + {percpu_isolated}(%rsp)
    je .Lleave_now
    jmp .Lleave_isolated
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
    LOAD_FULL_ROOT {regs_size}, %rsp
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
    LOAD_FULL_ROOT {regs_size}, %rsp
    movq %rsp, %rdi
    xorl %ebp, %ebp
    call sysenter_from_guest
    jmp exit_to_guest
.size sysenter_entry, . - sysenter_entry

# Where the first CPU's word of raised work is, for tools outside (`xtask bench latency`). No byte of the image.
.globl first_cpu_work
.set first_cpu_work, {cpu_areas} + {cpu_area} - {percpu_size} + {percpu_work}
