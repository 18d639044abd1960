# SPDX-License-Identifier: Apache-2.0
# Boot sector and start of an image: ATA disk → memory → 64-bit mode → start() in machine.c.

        .code16
        .section .boot, "ax"
        cli
        xorl    %eax, %eax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        inb     $0x92, %al              # open address line 20
        orb     $2, %al
        outb    %al, $0x92
        lgdtl   segments_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, $load

        .code32
load:   movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        # Sector numbers are %ebx, `image_sectors` of them are left in %ebp.
        movl    $1, %ebx
        movl    $image, %edi
        movl    $image_sectors, %ebp
        cld
sector: movw    $0x1f2, %dx
        movb    $1, %al
        outb    %al, %dx
        movl    %ebx, %eax
        incw    %dx
        outb    %al, %dx
        shrl    $8, %eax
        incw    %dx
        outb    %al, %dx
        shrl    $8, %eax
        incw    %dx
        outb    %al, %dx
        shrl    $8, %eax
        orb     $0xe0, %al
        incw    %dx
        outb    %al, %dx
        incw    %dx
        movb    $0x20, %al              # read
        outb    %al, %dx
busy:   inb     %dx, %al
        testb   $0x80, %al
        jnz     busy
        testb   $8, %al
        jz      busy
        movw    $0x1f0, %dx
        movl    $256, %ecx
        rep insw
        incl    %ebx
        decl    %ebp
        jnz     sector
        jmp     start32

        .balign 8
segments:
        .quad   0
        .quad   0x00cf9a000000ffff      # 8: 32-bit code
        .quad   0x00cf92000000ffff      # 16: data
        .quad   0x00af9a000000ffff      # 24: 64-bit code
segments_pointer:
        .word   31
        .long   segments

        .org    510
        .word   0xaa55

        .section .start, "ax"
start32:
        # Clear .bss, which holds the page tables and the stack.
        movl    $bss, %edi
        movl    $bss_end, %ecx
        subl    %edi, %ecx
        shrl    $2, %ecx
        xorl    %eax, %eax
        rep stosl
        # Map the first GiB to itself in pages of 2 MiB.
        movl    $tables + 0x1003, tables
        movl    $pages + 3, tables + 0x1000
        movl    $pages, %edi
        movl    $0x83, %eax
        movl    $512, %ecx
map:    movl    %eax, (%edi)
        addl    $8, %edi
        addl    $0x200000, %eax
        loop    map
        movl    %cr4, %eax
        orl     $0x40620, %eax          # PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
        movl    %eax, %cr4
        movl    $tables, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # long mode
        rdmsr
        orl     $0x100, %eax
        wrmsr
        movl    %cr0, %eax
        andl    $~0x0c, %eax            # use the vector registers,
        orl     $0x80000022, %eax       # and paging
        movl    %eax, %cr0
        ljmpl   $24, $start64

        .code64
start64:
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        leaq    stack_end(%rip), %rsp
        lidt    exceptions_pointer(%rip)
        xorl    %ecx, %ecx              # the state of x87, SSE, AVX and AVX-512
        xorl    %edx, %edx
        movl    $0xe7, %eax
        xsetbv
        call    start
halt:   hlt
        jmp     halt

        # Exception i enters at exception_entries + 16 i and goes to exception(i, address).
        .globl  exception_entries
        .balign 16
exception_entries:
        .set    i, 0
        .rept   32
        .balign 16
        .if     !((1 << i) & 0x60227d00) # these push an error code themselves
        pushq   $0
        .endif
        pushq   $i
        jmp     any_exception
        .set    i, i + 1
        .endr
any_exception:
        popq    %rdi
        popq    %rax
        popq    %rsi
        leaq    stack_end(%rip), %rsp
        cld
        call    exception
        jmp     halt

        .section .rodata
        .globl  blob
        .balign 4096
blob:   .incbin "blob.bin"

        .data
        .balign 16
exceptions_pointer:
        .word   32 * 16 - 1
        .quad   exception_table

        .bss
        .globl  pages, exception_table
        .balign 4096
tables: .space  0x2000
pages:  .space  0x1000
exception_table:
        .space  32 * 16
        .balign 64
        .space  1 << 20
stack_end:

        .section .note.GNU-stack, "", @progbits
