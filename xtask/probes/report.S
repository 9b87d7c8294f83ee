/* tsc_line: turns the time-stamp counter in %rax into the line "tsc=<16 hexadecimal digits>\n" at tsc_text.
 * Clobbers %rax, %rcx, %rdi; leaves the line's length in tsc_size. */
    .text
tsc_line:
    lea     tsc_text+4(%rip), %rdi
    mov     $16, %ecx
1:  rol     $4, %rax
    push    %rax
    and     $15, %eax
    cmp     $10, %eax
    jb      2f
    add     $('a' - '0' - 10), %eax
2:  add     $'0', %eax
    mov     %al, (%rdi)
    pop     %rax
    inc     %rdi
    dec     %ecx
    jnz     1b
    ret

    .data
tsc_text:
    .ascii  "tsc=0000000000000000\n"
    .set    tsc_size, . - tsc_text
