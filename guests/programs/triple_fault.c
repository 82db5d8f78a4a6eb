/* A fault in the delivery of a double fault shuts the processor down (SDM vol. 3, 6.15, interrupt 8). */
#include "guest.h"

void run(void)
{
    print("without an IDT, #UD becomes #GP, #DF and a shutdown\n");
    struct table none = {0, 0};
    EMIT("lidt %0\n ud2" : : "m"(none));
    check("nothing is executed after a triple fault", false);
}
