# Start of 64-bit programs: from protected mode, as multiboot enters it, to long mode with 4 GiB mapped to itself.
.intel_syntax noprefix
.include "multiboot.inc"

.text
.code32
.global start
start:
    cli
    cld
    mov esp, offset stack_top

    # Page tables: one PML4E, four PDPTEs, 2048 pages of 2 MiB; P, W and U everywhere.
    mov eax, offset identity_pdpt + 7
    mov [pml4], eax
    mov eax, offset identity_directories + 7
    mov edi, offset identity_pdpt
    mov ecx, 4
1:  mov [edi], eax
    add eax, 4096
    add edi, 8
    loop 1b
    mov eax, 0x87
    mov edi, offset identity_directories
    mov ecx, 2048
2:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 2b

    # SDM vol. 3, 9.8.5: PAE, CR3, EFER.LME, paging.
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
    lgdt [gdt_register]
    jmp 0x08:long_mode

.code64
long_mode:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    lldt ax
    mov rsp, offset stack_top
    call prepare
    call run
    call finish

# bool arm(void): remember where to return to a second time.
.global arm
arm:
    mov rax, [rsp]
    mov [escape_ip], rax
    lea rax, [rsp + 8]
    mov [escape_sp], rax
    mov [escape_registers], rbx
    mov [escape_registers + 8], rbp
    mov [escape_registers + 16], r12
    mov [escape_registers + 24], r13
    mov [escape_registers + 32], r14
    mov [escape_registers + 40], r15
    mov byte ptr [armed], 1
    xor eax, eax
    ret

# noreturn void escape(void): return there. By IRET, which also unblocks NMIs.
.global escape
escape:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov rbx, [escape_registers]
    mov rbp, [escape_registers + 8]
    mov r12, [escape_registers + 16]
    mov r13, [escape_registers + 24]
    mov r14, [escape_registers + 32]
    mov r15, [escape_registers + 40]
    mov eax, 1
    push 0x10
    push qword ptr [escape_sp]
    push 2
    push 0x08
    push qword ptr [escape_ip]
    iretq

.global to_ring_3
to_ring_3:
    pop rcx
    mov rdx, rsp
    push 0x20 | 3
    push rdx
    pushfq
    push 0x28 | 3
    push rcx
    iretq

.global to_ring_0
to_ring_0:
    int 0x80
    ret

# The handler of TO_RING_0: stay on the caller's stack.
.global return_to_ring_0
return_to_ring_0:
    mov rcx, [rsp]
    mov rsp, [rsp + 24]
    mov eax, 0x10
    mov ss, eax
    jmp rcx

.data
.align 8
gdt_register:
    .word 32 * 8 - 1
    .quad gdt
.align 8
.global gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff # KERNEL_CODE
    .quad 0x00cf93000000ffff # KERNEL_DATA
    .quad 0x00cffb000000ffff # USER_CODE_32
    .quad 0x00cff3000000ffff # USER_DATA
    .quad 0x00affb000000ffff # USER_CODE
    .quad 0x00cff3000000ffff # USER_DATA_64
    .quad 0x00cf9b000000ffff # KERNEL_CODE_32
    .quad 0x00009b000000ffff # CODE_16
    .quad 0x000093000000ffff # DATA_16
    .fill 22, 8, 0

.bss
.align 4096
.global pml4
pml4: .skip 4096
identity_pdpt: .skip 4096
.global identity_directories
identity_directories: .skip 4 * 4096
    .skip 16384
.global stack_top
stack_top:
    .skip 8192
.global ring_0_stack_top # for what interrupts CPL 3
ring_0_stack_top:
.lcomm escape_ip, 8
.lcomm escape_sp, 8
.lcomm escape_registers, 48
.section .note.GNU-stack, "", @progbits
