# Where a start-up IPI leads: from real mode to long mode, with the first processor's tables and a stack of its own.
.intel_syntax noprefix

#ifdef __x86_64__
.set STACK_SIZE, 16384

.text
.code16
.global trampoline, trampoline_end
trampoline:
    cli
    xor ax, ax
    mov ds, ax
    lgdtd [0x8000 + (trampoline_gdt - trampoline)]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea # jmp 0x38:processor_protected
    .long processor_protected
    .word 0x38
trampoline_gdt:
    .word 32 * 8 - 1
    .long gdt
trampoline_end:

.code32
processor_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, 0x20
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010033
    mov cr0, eax
    jmp 0x08:processor_long

.code64
processor_long:
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lldt ax
    mov eax, 1
    cpuid
    shr ebx, 24
    mov edi, ebx
    imul ebx, ebx, STACK_SIZE
    lea rsp, [processor_stacks + rbx + STACK_SIZE]
    call processor_begins

.bss
.align 16
processor_stacks:
    .skip 8 * STACK_SIZE
#endif
.section .note.GNU-stack, "", @progbits
