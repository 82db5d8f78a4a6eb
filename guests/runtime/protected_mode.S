# Start of 32-bit programs: protected mode with our own flat segments, paging off.
.intel_syntax noprefix
.include "multiboot.inc"

.text
.code32
.global start
start:
    cli
    cld
    lgdt [gdt_register]
    jmp 0x08:1f
1:  mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, offset stack_top
    xor eax, eax
    lldt ax
    mov cr4, eax
    mov eax, 0x33
    mov cr0, eax
    call prepare
    call run
    call finish

# bool arm(void): remember where to return to a second time.
.global arm
arm:
    mov eax, [esp]
    mov [escape_ip], eax
    lea eax, [esp + 4]
    mov [escape_sp], eax
    mov [escape_registers], ebx
    mov [escape_registers + 4], ebp
    mov [escape_registers + 8], esi
    mov [escape_registers + 12], edi
    mov byte ptr [armed], 1
    xor eax, eax
    ret

# noreturn void escape(void): return there. FS and GS stay as they are: they are the program's.
.global escape
escape:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ebx, [escape_registers]
    mov ebp, [escape_registers + 4]
    mov esi, [escape_registers + 8]
    mov edi, [escape_registers + 12]
    mov esp, [escape_sp]
    mov eax, 1
    push 2
    push 0x08
    push [escape_ip]
    iret

.global to_ring_3
to_ring_3:
    pop ecx
    mov eax, 0x20 | 3
    mov ds, eax
    mov es, eax
    mov edx, esp
    push eax
    push edx
    pushf
    push 0x18 | 3
    push ecx
    iret

.global to_ring_0
to_ring_0:
    int 0x80
    ret

# The handler of TO_RING_0: stay on the caller's stack.
.global return_to_ring_0
return_to_ring_0:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ecx, [esp]
    mov edx, [esp + 12]
    mov ss, eax
    mov esp, edx
    jmp ecx

.data
.align 8
gdt_register:
    .word 32 * 8 - 1
    .long gdt
.align 8
.global gdt
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff # KERNEL_CODE
    .quad 0x00cf93000000ffff # KERNEL_DATA
    .quad 0x00cffb000000ffff # USER_CODE_32
    .quad 0x00cff3000000ffff # USER_DATA
    .quad 0
    .quad 0
    .quad 0x00cf9b000000ffff # KERNEL_CODE_32
    .quad 0x00009b000000ffff # CODE_16
    .quad 0x000093000000ffff # DATA_16
    .fill 22, 8, 0

.bss
.align 16
    .skip 16384
.global stack_top
stack_top:
    .skip 8192
.global ring_0_stack_top # for what interrupts CPL 3
ring_0_stack_top:
.lcomm escape_ip, 4
.lcomm escape_sp, 4
.lcomm escape_registers, 16
.section .note.GNU-stack, "", @progbits
