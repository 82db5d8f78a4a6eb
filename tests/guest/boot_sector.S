# A boot sector that puts the image behind it at 1 MiB and enters it in protected mode, as multiboot loaders do.
# tests/guest/bochs.py fills in how long the image is and where it begins.
.intel_syntax noprefix
.set SECTORS_AT_ONCE, 64
.set BUFFER, 0x10000

.text
.code16
start:
    cli
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    mov [drive], dl
    sti

next:
    mov ah, 0x42
    mov dl, [drive]
    mov si, offset packet
    int 0x13
    jc stop
    # Where the memory is that real mode does not reach, the BIOS copies.
    mov ah, 0x87
    mov cx, SECTORS_AT_ONCE * 256
    mov si, offset moved
    int 0x15
    jc stop
    add dword ptr [first_sector], SECTORS_AT_ONCE
    add word ptr [target], SECTORS_AT_ONCE * 512
    adc byte ptr [target + 2], 0
    dec word ptr [rounds]
    jnz next

    cli
    in al, 0x92
    or al, 2
    out 0x92, al
    lgdt [table]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea # jmp 0x08:protected
    .long protected
    .word 0x08
stop:
    hlt
    jmp stop

.code32
protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, [entry]
    jmp eax

.align 8
descriptors:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
table:
    .word . - descriptors - 1
    .long descriptors

# What INT 13H, function 42H reads, and how INT 15H, function 87H, copies it.
packet:
    .word 16, SECTORS_AT_ONCE, 0, BUFFER / 16
first_sector:
    .quad 1
.align 8
moved:
    .fill 2, 8, 0
    .quad 0x000093000000ffff + (BUFFER << 16)
    .word 0xffff
target: # 24 bits of base, from 1 MiB
    .long 0x93100000
    .word 0
    .fill 2, 8, 0
drive:
    .byte 0

.org 502
rounds:
    .word 0
entry:
    .long 0
    .byte 0, 0
    .word 0xaa55
