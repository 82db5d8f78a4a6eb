/* What happens at an exception or interrupt: a handler, or the second return of `arm`, or the end. */
#include "guest.h"

handler *handlers[256];
struct caught caught;
word marked;
u8 armed;

__attribute__((noreturn)) void escape(void);

void disarm(void) { armed = false; }

static void remember(const struct frame *frame)
{
    caught = (struct caught){
        .vector = frame->vector, .error = frame->error, .ip = frame->ip, .cs = frame->cs, .flags = frame->flags,
    };
    if (frame->vector == PF)
        caught.cr2 = read_cr2();
    if (sizeof(word) == 8 || frame->cs & 3 || frame->flags & FLAG_VM) {
        caught.sp = frame->sp;
        caught.ss = frame->ss;
    }
}

static void unexpected(const struct frame *frame)
{
    static bool reporting;
    if (reporting)
        give_up("an exception while one was reported");
    reporting = true;
    print("unexpected vector ");
    print_hex(frame->vector);
    print(", error code ");
    print_hex(frame->error);
    print(", at ");
    print_hex(frame->ip);
    print(", CR2 ");
    print_hex(read_cr2());
    print("\n");
    give_up("an exception that nobody expects");
}

/* Called by the stubs in vectors.S. */
void trap(struct frame *frame)
{
    if (handlers[frame->vector & 0xff]) {
        handlers[frame->vector & 0xff](frame);
        return;
    }
    if (!armed)
        unexpected(frame);
    armed = false;
    remember(frame);
    escape();
}

void check_fault(const char *name, word vector, word error_code)
{
    if (caught.vector != vector) {
        check_equal(name, caught.vector, vector);
        print("     at ");
        print_hex(caught.ip);
        print(", error code ");
        print_hex(caught.error);
        print("\n");
    } else {
        check_equal(name, vector == NONE ? 0 : caught.error, error_code);
    }
}
