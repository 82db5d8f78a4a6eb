/*
 * Code that another processor changes: after it was told and has serialized, a processor runs the new code, however it
 * was written; staged through INT3 it runs the old or the new, nothing else (SDM vol. 3, 8.1.3).
 */
#include "processors.h"

enum { MOV_EAX = 0xb8, RET = 0xc3, INT3 = 0xcc, SYNC = 0x61, ROUNDS = 400, STAGED = 60, PAGES_OF_CODE = 200 };

typedef u32 function(void);
static u8 *code;
static volatile u32 version, done, wrong;
static volatile bool stop;

static u32 call(const void *at) { return ((function *)(word)at)(); }

/* mov eax, VALUE; ret */
static void write_function(u8 *at, u32 value)
{
    at[0] = MOV_EAX;
    write32((word)at + 1, value);
    at[5] = RET;
}

/* Run each version once it is announced. */
static void follow(unsigned processor)
{
    (void)processor;
    for (u32 next = 1; next <= ROUNDS; next++) {
        while (version != next)
            pause();
        serialize();
        wrong += call(code) != next;
        done = next;
    }
}

typedef void write(u8 *at, u32 value);

static void write_by_rep(u8 *at, u32 value)
{
    u8 source[6], *from = source;
    write_function(source, value);
    EMIT("rep movsb" : "+D"(at), "+S"(from), "+c"((u64){6}) : : "memory");
}

static void write_by_lock(u8 *at, u32 value)
{
    at[0] = MOV_EAX;
    at[5] = RET;
    EMIT("xchg [%1], %0" : "+r"(value) : "r"(at + 1) : "memory");
}

static void write_by_sse(u8 *at, u32 value)
{
    u64 low = (u64)value << 8 | MOV_EAX | (u64)RET << 40;
    EMIT("movq xmm0, %0\n movdqu [%1], xmm0" : : "r"(low), "r"(at) : "memory");
}

static void announced(const char *name, u8 *at, write *write)
{
    code = at;
    version = done = wrong = 0;
    begin_work(1, follow);
    for (u32 next = 1; next <= ROUNDS; next++) {
        write(at, next);
        version = next;
        while (done != next)
            pause();
    }
    wait_for_processor(1);
    check_equal(name, wrong, 0);
}

/* Both write and run the same function in turns. */
static void in_turns(unsigned processor)
{
    for (u32 turn = 1; turn <= ROUNDS; turn++) {
        while (version != turn * 2 - processor)
            pause();
        serialize();
        if (turn > 1 || processor == 0)
            wrong += call(code) != version - 1;
        write_function(code, version);
        version++;
    }
}

/* A page that one has just written, the other runs for the first time; then the first writes again. */
static void run_first(unsigned processor)
{
    (void)processor;
    for (u32 next = 1; next <= 2 * PAGES_OF_CODE; next++) {
        while (version != next)
            pause();
        serialize();
        wrong += call(code + (next - 1) / 2 * PAGE) != next;
        done = next;
    }
}

static void fresh_pages(void)
{
    code = new_pages(PAGES_OF_CODE);
    version = done = wrong = 0;
    begin_work(1, run_first);
    for (u32 next = 1; next <= 2 * PAGES_OF_CODE; next++) {
        write_function(code + (next - 1) / 2 * PAGE, next);
        version = next;
        while (done != next)
            pause();
    }
    wait_for_processor(1);
    check_equal("pages that the writer wrote just before", wrong, 0);
}

/* What the other processor is interrupted for: to serialize. IRET does. */
static volatile u32 synchronized;
static void on_sync(struct frame *frame)
{
    (void)frame;
    synchronized++;
    apic_end_of_interrupt();
}

static void synchronize(void)
{
    u32 before = synchronized;
    send_ipi(1, SYNC);
    while (synchronized == before)
        pause();
}

/* The patch in the making: return 0 at once. */
static volatile u32 breakpoints;
static void on_breakpoint(struct frame *frame)
{
    breakpoints++;
    frame->ax = 0;
    frame->ip = read64(frame->sp);
    frame->sp += 8;
}

static void run_on(unsigned processor)
{
    (void)processor;
    EMIT("sti");
    while (!stop) {
        u32 value = call(code);
        wrong += value != (value & 0xff) * 0x01010101;
    }
    EMIT("cli");
}

static void staged(void)
{
    code = new_pages(1) + 100;
    write_function(code, 0x01010101);
    wrong = 0;
    stop = false;
    begin_work(1, run_on);
    for (u32 round = 2; round < STAGED; round++) {
        code[0] = INT3;
        synchronize();
        for (unsigned byte = 1; byte <= 4; byte++)
            code[byte] = round;
        synchronize();
        code[0] = MOV_EAX;
        synchronize();
    }
    stop = true;
    wait_for_processor(1);
    check_equal("a patch staged through INT3", wrong, 0);
    check_equal("is there in the end", call(code), (STAGED - 1) * 0x01010101u);
}

void run(void)
{
    write_cr4(read_cr4() | CR4_OSFXSR);
    handlers[SYNC] = on_sync;
    handlers[BP] = on_breakpoint;
    start_processors(2);
    u8 *page = new_pages(2);
    announced("code that another processor writes", page + 8, write_function);
    announced("across a page", page + PAGE - 3, write_function);
    announced("by REP MOVSB", page + 64, write_by_rep);
    announced("by REP MOVSB across a page", page + PAGE - 2, write_by_rep);
    announced("by XCHG", page + 128, write_by_lock);
    announced("by SSE across a page", page + PAGE - 1, write_by_sse);
    map(TEST_AREA, (u64)page, P | W);
    announced("through an alias", page + 192, write_function);
    code = page + 256;
    wrong = 0;
    version = 1;
    together(2, in_turns);
    check_equal("code that two processors write in turns", wrong, 0);
    fresh_pages();
    staged();
}
