//! One fact a test.

use super::machine::{CODE, DATA, DEVICE, Machine, STACK};
use crate::Step;
use gasang_cpu::{Activity, Shadow};
use gasang_x86::{exception as vector, gpr, rflags};

#[test]
fn arithmetic_and_its_flags_come_from_the_host() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RAX] = 0x7fff_ffff;
    machine.state.gpr[gpr::RBX] = 1;
    assert_eq!(machine.execute(&[0x01, 0xd8]), Step::Retired); // add eax, ebx
    assert_eq!(machine.state.gpr[gpr::RAX], 0x8000_0000);
    assert_eq!(machine.state.rflags & rflags::STATUS, rflags::OF | rflags::SF | rflags::AF | rflags::PF);
    assert_eq!(machine.state.rip, CODE + 2);
    assert_eq!(machine.state.instructions, 1);
}

#[test]
fn guest_rsp_is_an_operand_like_any_other() {
    let mut machine = Machine::new();
    machine.execute(&[0x48, 0x83, 0xec, 0x28]); // sub rsp, 0x28
    assert_eq!(machine.state.gpr[gpr::RSP], STACK - 0x28);
    machine.execute(&[0x48, 0x89, 0x64, 0x24, 0x08]); // mov [rsp+8], rsp
    assert_eq!(machine.read(STACK - 0x20, 8), STACK - 0x28);
}

#[test]
fn high_byte_registers_are_read_and_written_alone() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RAX] = 0x1122_3344_5566_7788;
    machine.state.gpr[gpr::RDX] = DATA;
    machine.write(DATA, 1, 0x10);
    machine.execute(&[0x02, 0x22]); // add ah, [rdx]
    assert_eq!(machine.state.gpr[gpr::RAX], 0x1122_3344_5566_8788);
}

#[test]
fn a_32_bit_result_clears_the_upper_half() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::R9] = !0;
    machine.execute(&[0x41, 0xb9, 0x05, 0, 0, 0]); // mov r9d, 5
    assert_eq!(machine.state.gpr[gpr::R9], 5);
}

#[test]
fn div_by_zero() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RAX] = 7;
    machine.execute(&[0xf7, 0xf1]); // div ecx
    assert_eq!(machine.vector(), Some(vector::DE));
    assert_eq!(machine.state.gpr[gpr::RAX], 7);
    assert_eq!(machine.top(), CODE, "the saved RIP is the instruction's own");
    assert_eq!(machine.state.instructions, 0);
}

#[test]
fn push_commits_rsp_after_the_access() {
    let mut machine = Machine::new();
    machine.set_privilege(3);
    machine.state.gpr[gpr::RSP] = DATA + 0x1000;
    machine.protect(DATA, 0);
    machine.execute(&[0x50]); // push rax
    assert_eq!((machine.vector(), machine.state.cr2), (Some(vector::PF), DATA + 0xff8));
    let saved_rsp = machine.read(machine.state.gpr[gpr::RSP] + 8 * 4, 8);
    assert_eq!(saved_rsp, DATA + 0x1000);
}

#[test]
fn pop_to_memory_uses_the_incremented_stack_pointer() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RSP] = DATA;
    machine.write(DATA, 8, 0x55aa);
    machine.execute(&[0x8f, 0x04, 0x24]); // pop qword ptr [rsp]
    assert_eq!(machine.read(DATA + 8, 8), 0x55aa);
    assert_eq!(machine.state.gpr[gpr::RSP], DATA + 8);
}

#[test]
fn rep_movs_restarts_at_the_faulting_iteration() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RSI] = DATA;
    machine.state.gpr[gpr::RDI] = DATA + 0x2ff0;
    machine.state.gpr[gpr::RCX] = 0x20;
    machine.memory.write_physical(DATA, &[0x5a; 0x20]).unwrap();
    machine.protect(DATA + 0x3000, 0);
    machine.execute(&[0xf3, 0xa4]); // rep movsb
    assert_eq!(machine.vector(), Some(vector::PF));
    assert_eq!(machine.state.cr2, DATA + 0x3000);
    assert_eq!(machine.state.gpr[gpr::RCX], 0x10);
    assert_eq!(machine.state.gpr[gpr::RSI], DATA + 0x10);
    assert_eq!(machine.state.gpr[gpr::RDI], DATA + 0x3000);
    assert_eq!(machine.read(DATA + 0x2ff8, 8), 0x5a5a_5a5a_5a5a_5a5a);
    machine.protect(DATA + 0x3000, 7);
    machine.state.rip = CODE;
    machine.step();
    assert_eq!(machine.state.rip, CODE + 2);
    assert_eq!(machine.read(DATA + 0x3008, 8), 0x5a5a_5a5a_5a5a_5a5a);
    assert_eq!(machine.state.instructions, 1);
}

#[test]
fn rep_movs_over_itself_propagates() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RSI] = DATA;
    machine.state.gpr[gpr::RDI] = DATA + 1;
    machine.state.gpr[gpr::RCX] = 100;
    machine.write(DATA, 1, 0x77);
    machine.execute(&[0xf3, 0xa4]);
    assert_eq!(machine.read(DATA + 93, 8), 0x7777_7777_7777_7777);
}

#[test]
fn a_long_rep_is_interruptible_and_counts_once() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA;
    machine.state.gpr[gpr::RCX] = 10000;
    machine.load(&[0xf3, 0xaa]); // rep stosb
    let mut steps = 0;
    while machine.state.rip == CODE {
        assert_eq!(machine.step(), Step::Retired);
        steps += 1;
    }
    assert!(steps > 1);
    assert_eq!(machine.state.gpr[gpr::RCX], 0);
    assert_eq!(machine.state.instructions, 1);
}

#[test]
fn repne_scas_stops_behind_the_match() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA;
    machine.state.gpr[gpr::RCX] = 0x100;
    machine.state.gpr[gpr::RAX] = 0x42;
    machine.write(DATA + 9, 1, 0x42);
    machine.execute(&[0xf2, 0xae]); // repne scasb
    assert_eq!(machine.state.gpr[gpr::RDI], DATA + 10);
    assert_eq!(machine.state.gpr[gpr::RCX], 0x100 - 10);
    assert_ne!(machine.state.rflags & rflags::ZF, 0);
}

#[test]
fn backwards_strings_move_down() {
    let mut machine = Machine::new();
    machine.state.rflags |= rflags::DF;
    machine.state.gpr[gpr::RSI] = DATA + 8;
    machine.state.gpr[gpr::RDI] = DATA + 0x108;
    machine.state.gpr[gpr::RCX] = 2;
    machine.write(DATA, 8, 1);
    machine.write(DATA + 8, 8, 2);
    machine.execute(&[0xf3, 0x48, 0xa5]); // rep movsq
    assert_eq!((machine.read(DATA + 0x100, 8), machine.read(DATA + 0x108, 8)), (1, 2));
    assert_eq!(machine.state.gpr[gpr::RSI], DATA - 8);
}

#[test]
fn a_write_whose_second_page_faults_leaves_the_first_untouched() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA + 0xffc;
    machine.state.gpr[gpr::RAX] = !0;
    machine.protect(DATA + 0x1000, 0);
    machine.execute(&[0x48, 0x89, 0x07]); // mov [rdi], rax
    assert_eq!(machine.vector(), Some(vector::PF));
    assert_eq!(machine.state.cr2, DATA + 0x1000);
    assert_eq!(machine.read(DATA + 0xffc, 4), 0);
    assert_eq!(machine.entry(DATA) & 0x40, 0, "not dirty");
}

#[test]
fn lock_add_works_across_pages_that_are_apart() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA + 0xffe;
    machine.state.gpr[gpr::RAX] = 0x0001_0001;
    // Map the second page elsewhere, so that the two do not follow each other in host memory.
    machine.write(0x4000 + ((DATA + 0x1000) >> 12) * 8, 8, (DATA + 0x5000) | 7);
    machine.tlb.flush_all();
    machine.write(DATA + 0xffe, 2, 0xffff);
    machine.execute(&[0xf0, 0x01, 0x07]); // lock add [rdi], eax
    assert_eq!(machine.read(DATA + 0xffe, 2), 0);
    assert_eq!(machine.read(DATA + 0x5000, 2), 2);
}

#[test]
fn cmpxchg16b_misaligned_is_gp() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA + 8;
    machine.execute(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f]);
    assert_eq!(machine.vector(), Some(vector::GP));
    assert_eq!(machine.top(), 0);
}

#[test]
fn cmpxchg16b_exchanges_when_equal() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA;
    machine.write(DATA, 8, 5);
    machine.write(DATA + 8, 8, 6);
    for (register, value) in [(gpr::RAX, 5), (gpr::RDX, 6), (gpr::RBX, 7), (gpr::RCX, 8)] {
        machine.state.gpr[register] = value;
    }
    machine.execute(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f]);
    assert_eq!((machine.read(DATA, 8), machine.read(DATA + 8, 8)), (7, 8));
    assert_ne!(machine.state.rflags & rflags::ZF, 0);
}

#[test]
fn bit_strings_reach_beyond_their_operand() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DATA + 0x100;
    machine.state.gpr[gpr::RAX] = (-65i64) as u64;
    machine.execute(&[0x48, 0x0f, 0xab, 0x07]); // bts [rdi], rax
    assert_eq!(machine.read(DATA + 0xf0, 8), 1 << 63);
    machine.state.gpr[gpr::RAX] = 70;
    machine.execute(&[0x0f, 0xab, 0x07]); // bts [rdi], eax
    assert_eq!(machine.read(DATA + 0x108, 4), 1 << 6);
}

#[test]
fn single_step_traps_after_each_iteration_of_a_rep() {
    let mut machine = Machine::new();
    machine.state.rflags |= rflags::TF;
    machine.state.gpr[gpr::RDI] = DATA;
    machine.state.gpr[gpr::RCX] = 2;
    machine.load(&[0xf3, 0xaa, 0x90]);
    machine.step();
    assert_eq!(machine.vector(), Some(vector::DB));
    assert_eq!((machine.state.gpr[gpr::RCX], machine.top()), (1, CODE));
    assert_ne!(machine.state.dr[6] & 1 << 14, 0);
    machine.state.rflags |= rflags::TF;
    machine.state.rip = CODE;
    machine.step();
    assert_eq!((machine.state.gpr[gpr::RCX], machine.top()), (0, CODE + 2));
}

#[test]
fn mov_ss_holds_traps_back_for_one_instruction() {
    let mut machine = Machine::new();
    machine.state.rflags |= rflags::TF;
    machine.state.gpr[gpr::RAX] = 0x10;
    machine.load(&[0x8e, 0xd0, 0x90]); // mov ss, eax; nop
    machine.step();
    assert_eq!(machine.state.shadow, Shadow::MovSs);
    assert_eq!(machine.state.rip, CODE + 2);
    machine.step();
    assert_eq!(machine.state.shadow, Shadow::None);
    assert_eq!((machine.vector(), machine.top()), (Some(vector::DB), CODE + 3));
}

#[test]
fn int3_saves_the_address_behind_it() {
    let mut machine = Machine::new();
    machine.execute(&[0xcc]);
    assert_eq!((machine.vector(), machine.top()), (Some(vector::BP), CODE + 1));
}

#[test]
fn undefined_instructions_are_ud() {
    // ud2; lock nop; vmlaunch; vmread; vmrun; stgi; tdcall; 3DNow!; an XOP instruction; getsec; xbegin; enclu.
    let cases: [&[u8]; 12] = [
        &[0x0f, 0x0b],
        &[0xf0, 0x90],
        &[0x0f, 0x01, 0xc2],
        &[0x0f, 0x78, 0xc0],
        &[0x0f, 0x01, 0xd8],
        &[0x0f, 0x01, 0xdc],
        &[0x66, 0x0f, 0x01, 0xcc],
        &[0x0f, 0x0f, 0xc1, 0x9e],
        &[0x8f, 0xe9, 0x78, 0x81, 0xc0],
        &[0x0f, 0x37],
        &[0xc7, 0xf8, 0, 0, 0, 0],
        &[0x0f, 0x01, 0xd7],
    ];
    for code in cases {
        let mut machine = Machine::new();
        machine.execute(code);
        assert_eq!((machine.vector(), machine.top()), (Some(vector::UD), CODE), "{code:02x?}");
    }
}

#[test]
fn too_long_an_instruction_is_gp() {
    let mut machine = Machine::new();
    let mut code = [0x66; 16];
    code[15] = 0x90;
    machine.execute(&code);
    assert_eq!(machine.vector(), Some(vector::GP));
}

#[test]
fn an_instruction_that_needs_a_missing_page_faults_there() {
    let mut machine = Machine::new();
    machine.state.rip = CODE + 0xffe;
    machine.load(&[0xb8, 0x01]); // mov eax, imm32
    machine.protect(CODE + 0x1000, 0);
    machine.step();
    assert_eq!((machine.vector(), machine.state.cr2), (Some(vector::PF), CODE + 0x1000));
    // One that ends in time does not touch the next page.
    let mut machine = Machine::new();
    machine.state.rip = CODE + 0xffe;
    machine.load(&[0x89, 0xd8]);
    machine.protect(CODE + 0x1000, 7);
    machine.step();
    assert_eq!(machine.state.rip, CODE + 0x1000);
    assert_eq!(machine.entry(CODE + 0x1000) & 0x20, 0, "not accessed");
}

#[test]
fn a_changed_instruction_is_decoded_anew() {
    let mut machine = Machine::new();
    machine.execute(&[0xb0, 0x01]); // mov al, 1
    machine.state.rip = CODE;
    machine.execute(&[0xb0, 0x02]);
    assert_eq!(machine.state.gpr[gpr::RAX] & 0xff, 2);
}

#[test]
fn a_device_answers_in_the_middle_of_an_instruction() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDI] = DEVICE + 8;
    machine.surroundings.device[8] = 41;
    machine.surroundings.pending = true;
    let before = machine.state.clone();
    assert_eq!(machine.execute(&[0xff, 0x07]), Step::Pending); // inc dword ptr [rdi]
    assert_eq!((machine.state.rip, machine.state.rflags), (before.rip, before.rflags));
    machine.surroundings.pending = false;
    assert_eq!(machine.step(), Step::Retired);
    assert_eq!(machine.surroundings.device_writes, [(DEVICE + 8, 4, 42)]);
}

#[test]
fn hlt_waits_and_counts() {
    let mut machine = Machine::new();
    assert_eq!(machine.execute(&[0xf4]), Step::Halted);
    assert_eq!((machine.state.activity, machine.state.rip), (Activity::Halted, CODE + 1));
    assert_eq!(machine.state.instructions, 1);
    assert_eq!(machine.step(), Step::Halted);
}

#[test]
fn ports_reach_the_platform() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RDX] = 0x3f8;
    machine.state.gpr[gpr::RAX] = 0x1122_3344;
    machine.execute(&[0x66, 0xef]); // out dx, ax
    assert_eq!(machine.surroundings.ports_written, [(0x3f8, 2, 0x3344)]);
    machine.surroundings.port_value = 0xabcd_ef01;
    machine.execute(&[0xe4, 0x60]); // in al, 0x60
    assert_eq!(machine.state.gpr[gpr::RAX], 0x1122_3301);
}

#[test]
fn near_branches_go_where_they_say() {
    let mut machine = Machine::new();
    machine.execute(&[0xe8, 0xfb, 0, 0, 0]); // call +0x100
    assert_eq!((machine.state.rip, machine.top()), (CODE + 0x100, CODE + 5));
    machine.execute(&[0xc2, 0x10, 0]); // ret 0x10
    assert_eq!((machine.state.rip, machine.state.gpr[gpr::RSP]), (CODE + 5, STACK + 0x10));
    machine.state.gpr[gpr::RCX] = 2;
    machine.execute(&[0xe2, 0xfe]); // loop to itself
    assert_eq!((machine.state.rip, machine.state.gpr[gpr::RCX]), (CODE + 5, 1));
    machine.step();
    assert_eq!((machine.state.rip, machine.state.gpr[gpr::RCX]), (CODE + 7, 0));
    machine.state.gpr[gpr::RAX] = 1 << 60;
    machine.execute(&[0xff, 0xe0]); // jmp rax
    assert_eq!((machine.vector(), machine.top()), (Some(vector::GP), 0));
}

#[test]
fn enter_and_leave_frame_a_procedure() {
    let mut machine = Machine::new();
    machine.state.gpr[gpr::RBP] = 0x1234;
    machine.execute(&[0xc8, 0x20, 0, 0]); // enter 0x20, 0
    assert_eq!(machine.state.gpr[gpr::RBP], STACK - 8);
    assert_eq!(machine.state.gpr[gpr::RSP], STACK - 0x28);
    machine.execute(&[0xc9]); // leave
    assert_eq!((machine.state.gpr[gpr::RBP], machine.state.gpr[gpr::RSP]), (0x1234, STACK));
}

#[test]
fn decimal_adjustment_adds_in_decimal() {
    let mut machine = Machine::new();
    machine.set_code_bits(32);
    machine.state.gpr[gpr::RAX] = 0x79;
    machine.execute(&[0x04, 0x35]); // add al, 0x35
    machine.execute(&[0x27]); // daa
    assert_eq!(machine.state.gpr[gpr::RAX], 0x14);
    assert_ne!(machine.state.rflags & rflags::CF, 0);
}

#[test]
fn a_misaligned_access_of_a_program_that_asked_is_ac() {
    let mut machine = Machine::new();
    machine.set_privilege(3);
    machine.state.rflags |= rflags::AC;
    machine.state.gpr[gpr::RDI] = DATA + 1;
    machine.execute(&[0x8b, 0x07]); // mov eax, [rdi]
    assert_eq!(machine.vector(), Some(vector::AC));
}

#[test]
fn stubs_that_no_longer_fit_are_made_anew() {
    let mut machine = Machine::new();
    for immediate in 0..60_000u32 {
        machine.state.rip = CODE;
        let [a, b, c, d] = immediate.to_le_bytes();
        machine.execute(&[0xb8, a, b, c, d]); // mov eax, immediate
        assert_eq!(machine.state.gpr[gpr::RAX], u64::from(immediate));
    }
}
