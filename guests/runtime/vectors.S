# One stub for each vector: it makes all frames alike (struct frame) and calls `trap`.
.intel_syntax noprefix
.text

# 8, 10-14, 17, 21, 29 and 30 push an error code themselves (SDM vol. 3, table 6-1).
.set ERROR_CODES, 0x60227d00

.align 16
.global stubs
stubs:
.set vector, 0
.rept 256
    .align 16
    .if vector >= 32
    push 0
    .elseif !(ERROR_CODES >> vector & 1)
    push 0
    .endif
    push vector
    jmp save
    .set vector, vector + 1
.endr

#ifdef __x86_64__
save:
    cld
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    mov rbx, rsp
    and rsp, -16
    call trap
    mov rsp, rbx
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
#else
save:
    cld
    pusha
    push ds
    push es
    push fs
    push gs
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    push esp
    call trap
    add esp, 4
    pop gs
    pop fs
    pop es
    pop ds
    popa
    add esp, 8
    iret
#endif
.section .note.GNU-stack, "", @progbits
