#!/usr/bin/env bash
# QEMU's TCG has two time-stamp counters that disagree: RDTSC counts, RDMSR of IA32_TIME_STAMP_COUNTER (10h) reads 0 for
# ever, and WRMSR to it is taken without a fault and forgotten. The SDM (volume 3, 18.17) and the APM (volume 2, 13.2.4)
# say that the two instructions read one register.
#
# Who meets it: a hypervisor or kernel that saves and restores a CPU's TSC by its MSR, or that judges whether the TSCs of
# CPUs agree by writing it. Under emulation it believes that the clock stands still.
#
# Seen with Debian 12's QEMU 7.2 (1:7.2+dfsg-7+deb12u18+b3), CPU models qemu64 and max:
#   rdtsc1>0:1 rdtsc2>rdtsc1:1 rdmsr=0 after-wrmsr=0     (1: the comparison holds)
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
start:  mov     $stack, %esp
        rdtsc
        mov     %eax, %esi                      # RDTSC, low half
        rdtsc
        mov     %eax, %edi                      # again
        xor     %ebx, %ebx
        test    %esi, %esi
        setnz   %bl
        mov     $rdtsc1, %ebp
        call    say
        xor     %ebx, %ebx
        cmp     %esi, %edi
        seta    %bl
        mov     $rdtsc2, %ebp
        call    say
        call    read
        mov     $rdmsr, %ebp
        call    say
        mov     $0x10, %ecx
        mov     $0x12345678, %eax
        mov     $0, %edx
        wrmsr
        call    read
        mov     $after, %ebp
        call    say
        mov     $'\n', %al
        call    byte
        mov     $0xf4, %dx                      # isa-debug-exit
        out     %al, (%dx)
1:      hlt
        jmp     1b

# EBX is the smaller of 9 and the MSR (any of its 64 bits).
read:   mov     $0x10, %ecx
        rdmsr
        or      %edx, %eax
        mov     %eax, %ebx
        cmp     $9, %ebx
        jbe     1f
        mov     $9, %ebx
1:      ret

# The text at EBP and the digit in EBX.
say:    mov     (%ebp), %al
        inc     %ebp
        test    %al, %al
        jz      1f
        call    byte
        jmp     say
1:      lea     '0'(%ebx), %eax
byte:   mov     $0x3f8, %dx
        out     %al, (%dx)
        ret

rdtsc1: .asciz  "rdtsc1>0:"
rdtsc2: .asciz  " rdtsc2>rdtsc1:"
rdmsr:  .asciz  " rdmsr="
after:  .asciz  " after-wrmsr="
        .lcomm  room, 4096
        .set    stack, room + 4096
KERNEL
gcc -m32 -c -o kernel.o kernel.S
ld -m elf_i386 -Ttext=0x100000 -e start -o kernel.elf kernel.o

for model in qemu64 max; do
    # isa-debug-exit ends QEMU with an odd status, which is no failure.
    seen=$(qemu -accel tcg -cpu $model -m 32 -display none -nodefaults -monitor none -serial stdio -no-reboot \
        -device isa-debug-exit,iobase=0xf4 -kernel kernel.elf || true)
    echo "QEMU $version, $model: $seen"
    if [ "$seen" != 'rdtsc1>0:1 rdtsc2>rdtsc1:1 rdmsr=0 after-wrmsr=0' ]; then
        echo "the behaviour changed: expected rdmsr=0 and after-wrmsr=0" >&2
        exit 1
    fi
done
