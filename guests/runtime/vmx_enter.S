# The way into a guest and out of it.
.intel_syntax noprefix

#ifdef __x86_64__
.set HOST_RSP, 0x6c14
.set HOST_RIP, 0x6c16
.set LAUNCHED, 15 * 8

.text
# enum vm_result vm_enter(struct guest *): 0 after an exit; 1 or 2 if the VM entry failed (SDM vol. 3, 31.2).
.global vm_enter
vm_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdi
    mov eax, HOST_RSP
    vmwrite rax, rsp
    lea rcx, exited[rip]
    mov eax, HOST_RIP
    vmwrite rax, rcx
    # No MOV changes the flags.
    cmp qword ptr [rdi + LAUNCHED], 0
    mov rax, [rdi]
    mov rcx, [rdi + 8]
    mov rdx, [rdi + 16]
    mov rbx, [rdi + 24]
    mov rbp, [rdi + 32]
    mov rsi, [rdi + 40]
    mov r8, [rdi + 56]
    mov r9, [rdi + 64]
    mov r10, [rdi + 72]
    mov r11, [rdi + 80]
    mov r12, [rdi + 88]
    mov r13, [rdi + 96]
    mov r14, [rdi + 104]
    mov r15, [rdi + 112]
    mov rdi, [rdi + 48]
    jne 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  # No exit: CF or ZF.
    mov eax, 1
    mov ecx, 2
    cmovnc eax, ecx
    pop rdi
    jmp 3f

exited:
    xchg rdi, [rsp]
    mov [rdi], rax
    mov [rdi + 8], rcx
    mov [rdi + 16], rdx
    mov [rdi + 24], rbx
    mov [rdi + 32], rbp
    mov [rdi + 40], rsi
    mov [rdi + 56], r8
    mov [rdi + 64], r9
    mov [rdi + 72], r10
    mov [rdi + 80], r11
    mov [rdi + 88], r12
    mov [rdi + 96], r13
    mov [rdi + 104], r14
    mov [rdi + 112], r15
    pop rax
    mov [rdi + 48], rax
    xor eax, eax
3:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# Where a guest's function returns to.
.global guest_returns
guest_returns:
    vmcall
    jmp guest_returns
#endif
.section .note.GNU-stack, "", @progbits
