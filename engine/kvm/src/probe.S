# The guest that tells whether a KVM executes what guests execute. It begins in real mode at 0x8000, where this is
# loaded, and writes to port 0x80 the number of what it has done. What fails ends in a triple fault, or in HLT with
# interrupts disabled, without the number. The driver has made page tables at 0x1000: the first 2 MiB and the local
# APIC, for all privileges.
# At 0x6000: what CPUID leaf 1 says in ECX; at 0x6004: 1 if there is AVX.

.set BASE, 0x8000
.set TABLES, 0x1000
.set EXPECTED, 0x6000
.set HAS_AVX, 0x6004
.set SCRATCH, 0x6010
.set STACK, 0x7000
.set ABSENT, 0x40000000
.set APIC, 0xfee00000
.set TIMER_VECTOR, 0x40
.set OSXSAVE, 1 << 27

.macro done number
    movb $\number, %al
    outb %al, $0x80
.endm

.globl gasang_probe, gasang_probe_end
.hidden gasang_probe, gasang_probe_end

.code16
gasang_probe:
    cli
    done 1
    movw $(gdtr - gasang_probe), %bx
    lgdtl %cs:(%bx)
    movl $0x620, %eax
    movl %eax, %cr4
    movl $TABLES, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(BASE + long_mode - gasang_probe)

.code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $STACK, %esp
    lidt idtr(%rip)
    movl $0x28, %eax
    ltr %ax
    done 2

    movl $1, %eax
    cpuid
    andl $~OSXSAVE, %ecx
    cmpl %ecx, EXPECTED
    jne stop
    done 3

    # It began at 0 when the guest did.
    rdtsc
    testl %edx, %edx
    jnz stop
    done 4

    xorl %eax, %eax
    xorl %edx, %edx
    movl $1, %ebx
    movl $2, %ecx
    lock cmpxchg16b SCRATCH
    jnz stop
    cmpq $2, SCRATCH + 8
    jne stop
    done 5

    cmpl $1, HAS_AVX
    jne without_avx
    movq %cr4, %rax
    orl $(1 << 18), %eax
    movq %rax, %cr4
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $7, %eax
    xsetbv
    vpcmpeqd %xmm0, %xmm0, %xmm0
    vinsertf128 $1, %xmm0, %ymm0, %ymm0
    vaddps %ymm0, %ymm0, %ymm1
    vptest %ymm0, %ymm0
    jnc stop
    vzeroupper
without_avx:
    done 6

    pushq $0x1b
    pushq $STACK
    pushq $0x02
    pushq $0x23
    leaq user(%rip), %rax
    pushq %rax
    iretq
user:
    movl ABSENT, %eax
    ud2

page_fault:
    popq %rax
    cmpl $4, %eax
    jne stop
    movq %cr2, %rax
    cmpq $ABSENT, %rax
    jne stop
    testb $3, 8(%rsp)
    jz stop
    done 7

    movl $APIC, %ebx
    movl $0x1ff, 0xf0(%rbx)
    movl $0xb, 0x3e0(%rbx)
    movl $TIMER_VECTOR, 0x320(%rbx)
    movl $1000000, 0x380(%rbx)
    sti
wait:
    hlt
    jmp wait
timer:
    movl $0, 0xb0(%rbx)
    done 8
stop:
    cli
    hlt
    jmp stop

.balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
    .word 0x67, BASE + tss - gasang_probe
    .byte 0, 0x89, 0, 0
    .quad 0
gdtr:
    .word gdtr - gdt - 1
    .long BASE + gdt - gasang_probe
idtr:
    .word idt_end - idt - 1
    .quad BASE + idt - gasang_probe
.balign 8
tss:
    .long 0
    .quad STACK
    .fill 92, 1, 0

.macro gate handler
    .word BASE + \handler - gasang_probe, 0x08, 0x8e00, 0
    .quad 0
.endm
.balign 8
idt:
    .fill 14 * 16, 1, 0
    gate page_fault
    .fill (TIMER_VECTOR - 15) * 16, 1, 0
    gate timer
idt_end:
gasang_probe_end:
