/* A static Linux program that prints the time-stamp counter at its first instruction and powers the machine off.
 * As the kernel's rdinit= it marks the instant at which userspace begins. */
    .globl  _start
    .text
_start:
    rdtsc
    shl     $32, %rdx
    or      %rdx, %rax
    call    tsc_line
    mov     $1, %eax                    /* write(1, tsc_text, tsc_size) */
    mov     $1, %edi
    lea     tsc_text(%rip), %rsi
    mov     $tsc_size, %edx
    syscall
    mov     $169, %eax                  /* reboot(LINUX_REBOOT_MAGIC1, MAGIC2, CMD_POWER_OFF) */
    mov     $0xfee1dead, %edi
    mov     $672274793, %esi
    mov     $0x4321fedc, %edx
    syscall
1:  jmp     1b

#include "report.S"
