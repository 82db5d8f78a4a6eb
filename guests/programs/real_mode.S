# Real mode: reached from protected mode, with 16-bit code, an interrupt table, segments as paragraphs, a limit kept from
# before ("unreal"), and back (SDM vol. 3, 9.9, 20.1).
.intel_syntax noprefix

.set CODE_16, 0x40
.set DATA_16, 0x48
.set KERNEL_DATA, 0x10
.set BASE, 0x7000      # where the 16-bit code is copied to

.text
.code32
.global run
run:
    pusha
    mov [stack_pointer], esp
    mov esi, offset real_begin
    mov edi, BASE
    mov ecx, offset real_end - real_begin
    rep movsb
    sidt [old_idt]
    # A limit of 4 GiB in FS, kept in real mode.
    mov eax, KERNEL_DATA
    mov fs, eax
    jmp CODE_16:BASE + leave_protected_mode - real_begin

.global back
back:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, [stack_pointer]
    lidt [old_idt]
    popa
    pusha

    .macro expect name, result, expected
    push 0
    push \expected
    push 0
    movzx eax, word ptr [BASE + \result - real_begin]
    push eax
    push offset 1f
    call check_equal
    add esp, 20
    .section .rodata
1:  .asciz "\name"
    .text
    .endm
    expect "PE is clear in real mode", saw_cr0, 0
    expect "a segment is a paragraph", saw_segment, 0x1234
    expect "an offset wraps at 64 KiB for IP, not for data", saw_fault, 13
    expect "the fault's IP is the instruction", saw_fault_ip, 0
    expect "INT goes through the table", saw_interrupt, 0x42
    expect "IRET comes back with the flags", saw_flags, 1
    expect "a limit of 4 GiB outlives protected mode", saw_unreal, 0xbeef
    expect "DIV by 0 is a fault, through vector 0", saw_divide, 0xd0
    expect "PUSH SP pushes the old SP", saw_sp, 0x7c00
    expect "far CALL and RET", saw_far, 0xca11
    expect "REP MOVSB with segments", saw_string, 0x4241
    expect "ENTER and LEAVE of 16 bits", saw_frame, 0x0010
    popa
    ret

# ---- copied to BASE: addresses are relative to there ----
.code16
real_begin:
leave_protected_mode:
    mov ax, DATA_16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    jmp 0:BASE + real_mode - real_begin

real_mode:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    lidt [BASE + real_idt - real_begin]
    mov eax, cr0
    and ax, 1
    mov [BASE + saw_cr0 - real_begin], ax

    # A paragraph: 0x0900:0x0010 is 0x9010.
    mov word ptr ds:[0x9010], 0x1234
    mov ax, 0x0900
    mov ds, ax
    mov bx, ds:[0x10]
    xor ax, ax
    mov ds, ax
    mov [BASE + saw_segment - real_begin], bx

    # A word at 0xffff is beyond the limit: #GP, vector 13.
    mov word ptr [13 * 4], BASE + on_protection - real_begin
    mov word ptr [13 * 4 + 2], 0
    mov bx, 0xffff
    mov dx, BASE + 1f - real_begin
1:  mov ax, [bx]
    .byte 0x90, 0x90

    mov word ptr [0x42 * 4], BASE + on_interrupt - real_begin
    mov word ptr [0x42 * 4 + 2], 0
    stc
    int 0x42
    setc al
    movzx ax, al
    mov [BASE + saw_flags - real_begin], ax

    # FS has its limit from before, though a load of it now changes only the base.
    mov ax, 0
    mov fs, ax
    mov ebx, 0x00180000
    mov word ptr fs:[ebx], 0xbeef
    mov ax, fs:[ebx]
    mov [BASE + saw_unreal - real_begin], ax

    mov word ptr [0], BASE + on_divide - real_begin
    mov word ptr [2], 0
    xor cx, cx
    div cx
    .byte 0x90

    mov sp, 0x7c00
    push sp
    pop ax
    mov [BASE + saw_sp - real_begin], ax

    call 0:BASE + far_routine - real_begin
    mov [BASE + saw_far - real_begin], ax

    mov si, BASE + letters - real_begin
    mov ax, 0x0a00
    mov es, ax
    xor di, di
    mov cx, 2
    cld
    rep movsb
    mov ax, es:[0]
    mov [BASE + saw_string - real_begin], ax

    mov bp, 0x55
    mov sp, 0x7c00
    enter 14, 0
    mov ax, 0x7c00
    sub ax, sp
    mov [BASE + saw_frame - real_begin], ax
    leave

    # Back: the descriptor tables are still there.
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long back
    .word 0x08

on_protection:
    mov word ptr cs:[BASE + saw_fault - real_begin], 13
    pop ax
    sub ax, dx
    mov cs:[BASE + saw_fault_ip - real_begin], ax
    add dx, 2
    push dx
    iret

on_interrupt:
    mov word ptr cs:[BASE + saw_interrupt - real_begin], 0x42
    clc
    iret

on_divide:
    mov word ptr cs:[BASE + saw_divide - real_begin], 0xd0
    push bp
    mov bp, sp
    add word ptr [bp + 2], 2
    pop bp
    iret

far_routine:
    mov ax, 0xca11
    retf

letters: .ascii "AB"
real_idt:
    .word 0x3ff
    .long 0
saw_cr0: .word 0xffff
saw_segment: .word 0
saw_fault: .word 0
saw_fault_ip: .word 0xffff
saw_interrupt: .word 0
saw_flags: .word 0
saw_unreal: .word 0
saw_divide: .word 0
saw_sp: .word 0
saw_far: .word 0
saw_string: .word 0
saw_frame: .word 0
real_end:

.bss
stack_pointer: .skip 4
old_idt: .skip 6
.section .note.GNU-stack, "", @progbits
