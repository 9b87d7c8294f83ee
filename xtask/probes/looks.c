/*
 * A plug-in of QEMU that counts what a hypervisor does between two looks at the work that waits for its CPU.
 *
 *     -plugin looks.so,work=ADDRESS,stride=BYTES,first=ADDRESS,end=ADDRESS,out=FILE
 *
 * `work` is the address of the first CPU's word of raised work, `stride` the distance to the next CPU's; CPU areas are
 * aligned to it. Code at addresses from `first` up to `end` is the hypervisor's. A stretch begins where a CPU enters that
 * code, or reads its own word there, and lasts until it reads it again or leaves. A block of instructions in which a look
 * is counts for the stretch before it and for the one behind it.
 *
 * QEMU 7.2 tells of atomic accesses, but not of plain loads. So a load is known by its displacement from the start of the
 * CPU's area, which is how `work_pending` is compiled. Where a compiler does it in another way looks are missed, and the
 * stretches become longer, not shorter. Accesses with a LOCK prefix raise work; they are no looks.
 *
 * A guest says what it does with two instructions that do nothing: `nopl BEGIN(%rax)` and `nopl END(%rax)`. For each
 * pair one line is written: the longest stretch of all CPUs between them, the address where it began (of the look, or
 * of the entry), that of the last block of instructions in it, and then where it was now and then.
 *
 * What is declared here is QEMU's interface for plug-ins, version 1 (docs/devel/tcg-plugins.rst), of which distributions
 * install no header.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_CPUS 64
#define SAMPLES 16
#define BEGIN 0x7a110001u
#define END 0x7a110002u

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0, READS = 1 };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*run)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*run)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*run)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*run)(unsigned, uint32_t, uint64_t, void *),
                                      int, int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;

/* A block of translated instructions of the hypervisor. */
struct block {
    uint64_t address, count;
};

/* What a CPU does. */
static struct cpu {
    uint64_t stretch, from;
    const struct block *block;
    /* Addresses in this stretch, one for each `step` instructions. */
    uint64_t samples[SAMPLES], step;
    unsigned sampled;
} cpus[MOST_CPUS];

static uint64_t work, stride, first, end;
static FILE *out;
static bool counting;
static uint64_t longest, longest_from, longest_to, longest_samples[SAMPLES];
static unsigned longest_sampled;

static void begin(struct cpu *this, uint64_t stretch, uint64_t from)
{
    this->stretch = stretch;
    this->from = from;
    this->sampled = 0;
    this->step = 256;
}

/* Keeps every second sample when there is no room for another one. */
static void sample(struct cpu *this)
{
    if (this->sampled == SAMPLES) {
        for (unsigned n = 0; n < SAMPLES / 2; n++)
            this->samples[n] = this->samples[2 * n];
        this->sampled = SAMPLES / 2;
        this->step *= 2;
    }
    this->samples[this->sampled++] = this->block->address;
}

static void block_runs(unsigned cpu, void *data)
{
    struct cpu *this = &cpus[cpu % MOST_CPUS];
    this->block = data;
    if (!this->stretch)
        begin(this, 0, this->block->address);
    this->stretch += this->block->count;
    if (this->stretch / this->step > this->sampled)
        sample(this);
    if (counting && this->stretch > longest) {
        longest = this->stretch;
        longest_from = this->from;
        longest_to = this->block->address;
        longest_sampled = this->sampled;
        memcpy(longest_samples, this->samples, sizeof longest_samples);
    }
}

static void guest_runs(unsigned cpu, void *data)
{
    (void)data;
    cpus[cpu % MOST_CPUS].stretch = 0;
}

static void looks(unsigned cpu, void *data)
{
    struct cpu *this = &cpus[cpu % MOST_CPUS];
    if (this->block)
        begin(this, this->block->count, (uint64_t)(uintptr_t)data);
}

static void word_is_read(unsigned cpu, uint32_t info, uint64_t address, void *data)
{
    (void)info;
    if (address == work + cpu * stride)
        looks(cpu, data);
}

/* Whether an instruction is `mov`, or `cmp` with an immediate byte, from the place of the word in a CPU's area. */
static bool loads_word(const uint8_t *bytes, size_t size)
{
    uint32_t displacement;
    size_t rex = size && (bytes[0] & 0xf0) == 0x40, immediate;
    if (size < rex + 6)
        return false;
    if (bytes[rex] == 0x8b)
        immediate = 0;
    else if (bytes[rex] == 0x83 && (bytes[rex + 1] >> 3 & 7) == 7)
        immediate = 1;
    else
        return false;
    memcpy(&displacement, bytes + size - immediate - sizeof displacement, sizeof displacement);
    return bytes[rex + 1] >> 6 == 2 && displacement == (work & (stride - 1));
}

static void row_begins(unsigned cpu, void *data)
{
    (void)cpu, (void)data;
    longest = longest_from = longest_to = longest_sampled = 0;
    counting = true;
}

static void row_ends(unsigned cpu, void *data)
{
    (void)cpu, (void)data;
    counting = false;
    fprintf(out, "%llu %llx %llx", (unsigned long long)longest, (unsigned long long)longest_from,
            (unsigned long long)longest_to);
    for (unsigned n = 0; n < longest_sampled; n++)
        fprintf(out, " %llx", (unsigned long long)longest_samples[n]);
    fputc('\n', out);
    fflush(out);
}

static void guest_instruction(struct qemu_plugin_insn *insn)
{
    static const uint8_t nop[] = {0x0f, 0x1f, 0x80};
    const uint8_t *bytes = qemu_plugin_insn_data(insn);
    uint32_t mark;
    if (qemu_plugin_insn_size(insn) != 7 || memcmp(bytes, nop, sizeof nop))
        return;
    memcpy(&mark, bytes + sizeof nop, sizeof mark);
    if (mark == BEGIN)
        qemu_plugin_register_vcpu_insn_exec_cb(insn, row_begins, NO_REGISTERS, NULL);
    if (mark == END)
        qemu_plugin_register_vcpu_insn_exec_cb(insn, row_ends, NO_REGISTERS, NULL);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
    uint64_t address = qemu_plugin_tb_vaddr(tb);
    size_t count = qemu_plugin_tb_n_insns(tb);
    (void)id;
    if (address < first || address >= end) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, guest_runs, NO_REGISTERS, NULL);
        for (size_t i = 0; i < count; i++)
            guest_instruction(qemu_plugin_tb_get_insn(tb, i));
        return;
    }
    struct block *block = malloc(sizeof *block);
    if (!block)
        abort();
    *block = (struct block){address, count};
    qemu_plugin_register_vcpu_tb_exec_cb(tb, block_runs, NO_REGISTERS, block);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint8_t *bytes = qemu_plugin_insn_data(insn);
        void *at = (void *)(uintptr_t)qemu_plugin_insn_vaddr(insn);
        if (loads_word(bytes, qemu_plugin_insn_size(insn)))
            qemu_plugin_register_vcpu_insn_exec_cb(insn, looks, NO_REGISTERS, at);
        else if (bytes[0] != 0xf0)
            qemu_plugin_register_vcpu_mem_cb(insn, word_is_read, NO_REGISTERS, READS, at);
    }
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    struct {
        const char *name;
        uint64_t *value;
    } numbers[] = {{"work=", &work}, {"stride=", &stride}, {"first=", &first}, {"end=", &end}};
    (void)info;
    for (int i = 0; i < argc; i++) {
        for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
            if (!strncmp(argv[i], numbers[n].name, strlen(numbers[n].name)))
                *numbers[n].value = strtoull(argv[i] + strlen(numbers[n].name), NULL, 0);
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
    }
    if (!out || !work || !end)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
