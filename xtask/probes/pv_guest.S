/* The smallest PV kernel: prints the time-stamp counter at its first instruction and asks for power-off.
 * It marks the instant at which the first domain runs, and is the valid kernel that the corrupt ones are made from.
 * Hypercalls go by `syscall`, so it needs no hypercall page (number in %rax, arguments in %rdi, %rsi, %rdx). */
    .globl  _start
    .text
_start:
    rdtsc
    lea     stack_top(%rip), %rsp
    shl     $32, %rdx
    or      %rdx, %rax
    call    tsc_line
    mov     $18, %eax                   /* console_io(CONSOLEIO_write, tsc_size, tsc_text) */
    xor     %edi, %edi
    mov     $tsc_size, %esi
    lea     tsc_text(%rip), %rdx
    syscall
    mov     $29, %eax                   /* sched_op(SCHEDOP_shutdown, { SHUTDOWN_poweroff }) */
    mov     $2, %edi
    lea     shutdown(%rip), %rsi
    syscall
1:  jmp     1b

#include "report.S"

shutdown:
    .long   0
    .bss
    .align  16
    .skip   4096
stack_top:

/* Notes of elfnote.h: name, type, value. */
    .macro  note type, directive, value:vararg
    .align  4
    .long   2f - 1f, 4f - 3f, \type
1:  .asciz  "Xen"
2:  .align  4
3:  \directive \value
4:  .align  4
    .endm

    .section .note.Xen, "a", @note
    note    6, .asciz, "paravane-probe"         /* GUEST_OS */
    note    7, .asciz, "1"                      /* GUEST_VERSION */
    note    5, .asciz, "xen-3.0"                /* XEN_VERSION */
    note    8, .asciz, "generic"                /* LOADER */
    note    3, .quad, 0xffffffff80000000        /* VIRT_BASE */
    note    4, .quad, 0xffffffff80000000        /* PADDR_OFFSET: ld's physical addresses are the virtual ones */
    note    1, .quad, _start                    /* ENTRY */
    note    9, .asciz, "yes"                    /* PAE_MODE */
