# From the boot loader's 32-bit protected mode to 64-bit Rust.
#
# Two doors: multiboot (eax = magic, ebx = multiboot information) and PVH (ebx = hvm_start_info). Both leave a flat
# 32-bit environment with paging off (Multiboot 0.6.96 section 3.2; Xen docs/misc/pvh). We know nothing about the stack.
#
# Register use until Rust: edi = magic (0 for PVH), esi = information. The page tables built here map the first 4 GiB
# by 2 MiB pages at 0 (until the last CPU is up), at the direct map, and the first of them at the image's address too.

.set BASE, 0xffff82d080000000
.set MULTIBOOT_MAGIC, 0x1badb002
.set MULTIBOOT_FLAGS, 0x00010003

.section .multiboot, "a"
.balign 4
multiboot_header:
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_FLAGS
    .long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
    .long multiboot_header - BASE
    .long image_start_phys
    .long data_end_phys
    .long image_end_phys
    .long multiboot_entry_phys

.section .note.Xen, "a", @note
.balign 4
    .long 4, 4, 18                  # name size, descriptor size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry_phys

.section .text.boot, "ax"
.code32
.global multiboot_entry
.type multiboot_entry, @function
multiboot_entry:
    cli
    cld
    movl %eax, %edi
    movl %ebx, %esi
    jmp .Lcommon32
.size multiboot_entry, . - multiboot_entry

.global pvh_entry
.type pvh_entry, @function
pvh_entry:
    cli
    cld
    xorl %edi, %edi
    movl %ebx, %esi

.Lcommon32:
    movl $(boot_cpu_area_end - BASE - 4096), %esp

    # Long mode? (SDM Vol. 2, CPUID: leaf 80000001h, edx bit 29; the leaf exists when 80000000h says so.)
    pushl %edi
    pushl %esi
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb .Lno_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc .Lno_long_mode
    movl %edx, %ebp
    popl %esi
    popl %edi

    # Level 2: 2048 entries of 2 MiB, present, writable.
    movl $(boot_l2 - BASE), %eax
    movl $0x83, %ecx
.Lfill:
    movl %ecx, (%eax)
    addl $8, %eax
    addl $0x200000, %ecx
    jnc .Lfill

    # Level 3: the four level-2 tables in a row; the image's table has the first alone, at its 1 GiB slot.
    movl $(boot_l2 - BASE + 3), %eax
    movl %eax, boot_l3_low - BASE
    movl %eax, boot_l3_image - BASE + 322 * 8
    addl $4096, %eax
    movl %eax, boot_l3_low - BASE + 8
    addl $4096, %eax
    movl %eax, boot_l3_low - BASE + 16
    addl $4096, %eax
    movl %eax, boot_l3_low - BASE + 24

    # Level 4: identity, image, direct map.
    movl $(boot_l3_low - BASE + 3), boot_l4 - BASE
    movl $(boot_l3_image - BASE + 3), boot_l4 - BASE + 261 * 8
    movl $(boot_l3_low - BASE + 3), boot_l4 - BASE + 262 * 8

.global enter_long_mode
enter_long_mode:                    # also from the trampoline of the other CPUs, with edi = 1, ebp = CPUID bits
    movl $0x20, %eax                # CR4.PAE
    movl %eax, %cr4
    movl $(boot_l4 - BASE), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER: LME, SCE, and NXE where the CPU has it
    movl $0x101, %eax
    btl $20, %ebp
    jnc 1f
    orl $0x800, %eax
1:  xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax          # CR0: PG WP NE ET MP PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer - BASE
    ljmp $8, $(.Llong_low - BASE)

.Lno_long_mode:
    movl $(.Lno_long_mode_text - BASE), %esi
.Lsay:
    lodsb
    testb %al, %al
    jz .Lhalt
    movb %al, %ah
    movw $0x3fd, %dx                # COM1 line status: transmitter holding register empty
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movb %ah, %al
    movw $0x3f8, %dx
    outb %al, %dx
    jmp .Lsay
.Lhalt:
    hlt
    jmp .Lhalt
.Lno_long_mode_text:
    .asciz "Paravane: this CPU has no long mode; a 64-bit x86 CPU is needed. Halted.\r\n"

.code64
.Llong_low:
    movabsq $.Llong_high, %rax
    jmpq *%rax
.Llong_high:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl $16, %eax
    movl %eax, %ss
    cmpl $1, %edi
    je .Lapplication_cpu
    leaq boot_cpu_area_end(%rip), %rsp
    subq ${percpu_size}, %rsp
    xorl %ebp, %ebp
    movl %edi, %edi
    movl %esi, %esi
    call boot_start
    ud2
.Lapplication_cpu:
    movq ap_stack(%rip), %rsp
    xorl %ebp, %ebp
    call ap_start
    ud2

.section .rodata.boot, "a"
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 8: code, ring 0, 64 bit
    .quad 0x00cf93000000ffff        # 16: data
boot_gdt_pointer:
    .word . - boot_gdt - 1
    .long boot_gdt - BASE
    .long 0

# The other CPUs start here in real mode, copied to a page below 1 MiB. cs:0 is the first byte of the copy.
.global trampoline_start, trampoline_end
trampoline_start:
.code16
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    xorl %ebx, %ebx
    movw %ax, %bx
    shll $4, %ebx
    leal (trampoline_gdt - trampoline_start)(%ebx), %eax
    movl %eax, trampoline_gdt_pointer - trampoline_start + 2
    leal (.Ltrampoline32 - trampoline_start)(%ebx), %eax
    movl %eax, .Ltrampoline_target - trampoline_start
    lgdtl trampoline_gdt_pointer - trampoline_start
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl *(.Ltrampoline_target - trampoline_start)
.balign 4
.Ltrampoline_target:
    .long 0
    .word 8
.balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        # 8: code, ring 0, 32 bit
    .quad 0x00cf93000000ffff        # 16: data
trampoline_gdt_pointer:
    .word . - trampoline_gdt - 1
    .long 0
.code32
.Ltrampoline32:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x80000001, %eax
    cpuid
    movl %edx, %ebp
    movl $1, %edi
    movl $(enter_long_mode - BASE), %eax
    jmpl *%eax
trampoline_end:
.code64

.section .bss.aligned, "aw", @nobits
.balign 4096                        # the linker script puts it at a multiple of its size
.global boot_cpu_area, boot_cpu_area_end
boot_cpu_area:
    .skip 131072
boot_cpu_area_end:
.global boot_l4
boot_l4:
    .skip 4096
boot_l3_low:
    .skip 4096
boot_l3_image:
    .skip 4096
boot_l2:
    .skip 4 * 4096

.text
