/* A multiboot1 program that prints the time-stamp counter at its first instruction on COM1 and stops. What it counts
 * is the firmware and the loader, the part of a boot that every hypervisor shares. 32-bit code. */
    .globl  _start
    .text
    .long   0x1badb002, 0, -0x1badb002  /* multiboot header: magic, no flags, checksum; in the first 8 KiB */
_start:
    rdtsc
    mov     $stack_top, %esp
    push    %eax
    mov     $prefix, %esi
    mov     $0x3f8, %edi                /* COM1's data port; QEMU's UART never makes us wait */
1:  lodsb
    test    %al, %al
    jz      2f
    xchg    %edx, %edi
    out     %al, %dx
    xchg    %edx, %edi
    jmp     1b
2:  mov     %edx, %eax
    call    hex32
    pop     %eax
    call    hex32
    mov     %edi, %edx
    mov     $'\n', %al
    out     %al, %dx
3:  cli
    hlt
    jmp     3b

hex32:                                  /* prints %eax as eight digits on port %edi */
    mov     $8, %ecx
    mov     %edx, %ebp
    mov     %edi, %edx
1:  rol     $4, %eax
    push    %eax
    and     $15, %eax
    cmp     $10, %eax
    jb      2f
    add     $('a' - '0' - 10), %eax
2:  add     $'0', %eax
    out     %al, %dx
    pop     %eax
    dec     %ecx
    jnz     1b
    mov     %ebp, %edx
    ret

    .data
prefix:
    .asciz  "tsc="
    .bss
    .align  16
    .skip   256
stack_top:
