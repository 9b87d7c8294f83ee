#!/usr/bin/env bash
# Under `-icount shift=0` QEMU's TCG advances its clock by one for each instruction, but a string instruction with a REP
# prefix advances it once for each iteration, and one time more: REP MOVSB of 4,096 bytes counts 4,097, REP MOVSD of the
# same 4,096 bytes 1,025. CPUID, PAUSE, a read of a port, a move to or from CR3 and an INVLPG count one each, as NOP does.
#
# Who meets it: those who compare programs by instructions counted this way. A copy with REP MOVSB looks four times as
# dear as one with REP MOVSD, and dearer than an unrolled loop, which on hardware is the other way round; what on hardware
# costs hundreds of cycles (a serialising instruction, a device, an emptied TLB) looks free.
#
# Seen with Debian 12's QEMU 7.2 (1:7.2+dfsg-7+deb12u18+b3), the difference of two RDTSC less that of two in a row:
#   nop=1 cpuid=1 pause=1 in=1 cr3=2 invlpg=1 movsb=4097 movsd=1025     (cr3: a read and a write)
#
# The test kernel below is assembled here, starts by multiboot and prints that line; the script fails when it changes.
# Needs apt-get on Debian 12, gcc and binutils; everything goes to a folder that is removed.
set -euo pipefail
version='1:7.2+dfsg-7+deb12u18+b3'
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# The package with all that it depends on, unpacked and not installed.
mkdir root && touch status
apt-get install -qq -y --no-install-recommends --print-uris -o Dir::State::status="$folder/status" \
    "qemu-system-x86=$version" | awk '{ print $1 " " $2 }' | tr -d "'" > list
while read -r from to; do
    curl -sSf -o "$to" "$from"
    dpkg-deb -x "$to" root
    rm "$to"
done < list
library_path=$(find "$folder/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
export QEMU_MODULE_DIR=$folder/root/usr/lib/x86_64-linux-gnu/qemu
qemu() {
    timeout 60 "$folder/root/lib64/ld-linux-x86-64.so.2" --library-path "$library_path" "$folder/root/usr/bin/qemu-system-x86_64" \
        -L "$folder/root/usr/share/qemu" -L "$folder/root/usr/share/seabios" "$@"
}

cat > kernel.S <<'KERNEL'
        .code32
        .globl  start
        .long   0x1badb002, 0, -0x1badb002      # multiboot header

        # Prints the name, and what the instructions cost beyond two RDTSC.
        .macro  row name, instructions:vararg
        mov     $0x400000, %esi
        mov     $0x500000, %edi
        rdtsc
        mov     %eax, start_tsc
        \instructions
        rdtsc
        sub     start_tsc, %eax
        sub     empty, %eax
        mov     $9f, %ebp
        call    say
        jmp     8f
9:      .asciz  "\name="
8:
        .endm

        .macro  reload_cr3
        mov     %cr3, %ecx
        mov     %ecx, %cr3
        .endm

start:  mov     $stack, %esp
        rdtsc
        mov     %eax, start_tsc
        rdtsc
        sub     start_tsc, %eax
        mov     %eax, empty
        row     nop, nop
        row     cpuid, cpuid
        row     pause, pause
        row     in, in $0x80, %al
        row     cr3, reload_cr3
        row     invlpg, invlpg (0)
        mov     $4096, %ecx
        row     movsb, rep movsb
        mov     $1024, %ecx
        row     movsd, rep movsl
        mov     $0xf4, %dx                      # isa-debug-exit
        out     %al, (%dx)
1:      hlt
        jmp     1b

# The text at EBP, the number in EAX, a space.
say:    push    %eax
2:      mov     (%ebp), %al
        inc     %ebp
        test    %al, %al
        jz      3f
        call    byte
        jmp     2b
3:      pop     %eax
        call    number
        mov     $' ', %al
byte:   mov     $0x3f8, %dx
        out     %al, (%dx)
        ret
number: xor     %edx, %edx
        mov     $10, %ecx
        div     %ecx
        push    %edx
        test    %eax, %eax
        jz      4f
        call    number
4:      pop     %eax
        add     $'0', %al
        jmp     byte

        .lcomm  start_tsc, 4
        .lcomm  empty, 4
        .lcomm  room, 4096
        .set    stack, room + 4096
KERNEL
gcc -m32 -c -o kernel.o kernel.S
ld -m elf_i386 -Ttext=0x100000 -e start -o kernel.elf kernel.o

# isa-debug-exit ends QEMU with an odd status, which is no failure.
seen=$(qemu -accel tcg -icount shift=0,sleep=off -cpu qemu64 -m 32 -display none -nodefaults -monitor none -serial stdio \
    -no-reboot -device isa-debug-exit,iobase=0xf4 -kernel kernel.elf || true)
echo "QEMU $version: $seen"
if [ "$seen" != 'nop=1 cpuid=1 pause=1 in=1 cr3=2 invlpg=1 movsb=4097 movsd=1025 ' ]; then
    echo "the behaviour changed" >&2
    exit 1
fi
