//! The same instruction bytes executed directly: all registers loaded from a block at a fixed address, the bytes, all
//! registers stored back. Guest addresses below are mapped at the same addresses in this process.

use super::machine::{DATA, STACK};
use gasang_cpu::{ExtendedState, VcpuState};
use gasang_x86::gpr;
use std::sync::{Mutex, MutexGuard};

/// Bytes of data that both sides see.
pub const DATA_SIZE: usize = 0x3000;
const STACK_SIZE: usize = 0x2000;
const STACK_START: u64 = STACK - 0x1000;
/// The block: registers, flags, the host's stack pointer, then images for XSAVE.
const BLOCK: u64 = 0x5_0000;
const FLAGS: u64 = BLOCK + 0x80;
const HOST_RSP: u64 = BLOCK + 0x88;
const IMAGE: u64 = BLOCK + 0x1000;
const INITIAL: u64 = BLOCK + 0x2000;
const BLOCK_SIZE: usize = 0x3000;
/// Where the code goes.
const CODE: u64 = 0x6_0000;

static LOCK: Mutex<bool> = Mutex::new(false);

/// The only user of the fixed addresses.
pub struct Native {
    mapped: MutexGuard<'static, bool>,
}

fn map(address: u64, size: usize, protection: i32) {
    // SAFETY: refuses to replace an existing mapping, and the result is checked.
    let at = unsafe {
        libc::mmap(
            address as *mut libc::c_void,
            size,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    assert_eq!(at as u64, address, "cannot map {address:#x}");
}

fn bytes(address: u64, size: usize) -> &'static mut [u8] {
    // SAFETY: one of the ranges that `Native::new` mapped; `Native` is held by one thread at a time.
    unsafe { std::slice::from_raw_parts_mut(address as *mut u8, size) }
}

impl Native {
    pub fn new() -> Native {
        let mut mapped = LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !*mapped {
            let read_write = libc::PROT_READ | libc::PROT_WRITE;
            map(DATA, DATA_SIZE, read_write);
            map(STACK_START, STACK_SIZE, read_write);
            map(BLOCK, BLOCK_SIZE, read_write);
            map(CODE, 0x1000, read_write | libc::PROT_EXEC);
            *mapped = true;
        }
        Native { mapped }
    }

    pub fn data(&mut self) -> &mut [u8] {
        debug_assert!(*self.mapped);
        bytes(DATA, DATA_SIZE)
    }

    /// Execute `instruction` on the registers of `state`.
    pub fn execute(&mut self, instruction: &[u8], state: &mut VcpuState) {
        for (number, value) in state.gpr.iter().enumerate() {
            bytes(BLOCK + number as u64 * 8, 8).copy_from_slice(&value.to_le_bytes());
        }
        bytes(FLAGS, 8).copy_from_slice(&(state.rflags | 0x202).to_le_bytes());
        bytes(IMAGE, 0x1000).copy_from_slice(&state.extended.bytes);
        bytes(INITIAL, 0x1000).copy_from_slice(&ExtendedState::initial().bytes);
        let code = program(instruction);
        bytes(CODE, code.len()).copy_from_slice(&code);
        // SAFETY: the program saves and restores what the ABI wants preserved; what it computes on is ours. The caller
        // passes instructions that neither fault nor leave the mapped data.
        unsafe {
            std::arch::asm!(
                "push rbx", "push rbp", "call rax", "pop rbp", "pop rbx",
                inlateout("rax") CODE => _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                clobber_abi("sysv64"),
            );
        }
        for (number, value) in state.gpr.iter_mut().enumerate() {
            *value = u64::from_le_bytes(bytes(BLOCK + number as u64 * 8, 8).try_into().unwrap());
        }
        state.rflags = u64::from_le_bytes(bytes(FLAGS, 8).try_into().unwrap());
        state.extended.bytes.copy_from_slice(bytes(IMAGE, 0x1000));
    }
}

/// `mov` between a register and the block, at an absolute address.
fn absolute(opcode: u8, register: usize, address: u64) -> Vec<u8> {
    let rex = 0x48 | (register >> 3 << 2) as u8;
    let mut code = vec![rex, opcode, 0x04 | ((register & 7) << 3) as u8, 0x25];
    code.extend((address as u32).to_le_bytes());
    code
}

fn program(instruction: &[u8]) -> Vec<u8> {
    let with_address = |prefix: &[u8], address: u64| [prefix, &(address as u32).to_le_bytes()].concat();
    let all_components = [0xb8, 0xe7, 0, 0, 0, 0x31, 0xd2]; // mov eax, 0xe7; xor edx, edx
    let mut code = absolute(0x89, gpr::RSP, HOST_RSP);
    code.extend(all_components);
    code.extend(with_address(&[0x48, 0x0f, 0xae, 0x2c, 0x25], IMAGE)); // xrstor64
    code.extend(with_address(&[0xff, 0x34, 0x25], FLAGS)); // push qword ptr
    code.push(0x9d); // popfq
    for register in 0..16 {
        code.extend(absolute(0x8b, register, BLOCK + register as u64 * 8));
    }
    code.extend(instruction);
    for register in 0..16 {
        code.extend(absolute(0x89, register, BLOCK + register as u64 * 8));
    }
    code.extend(absolute(0x8b, gpr::RSP, HOST_RSP));
    code.push(0x9c); // pushfq
    code.extend(with_address(&[0x8f, 0x04, 0x25], FLAGS)); // pop qword ptr
    code.extend(all_components);
    code.extend(with_address(&[0x48, 0x0f, 0xae, 0x24, 0x25], IMAGE)); // xsave64
    code.extend(with_address(&[0x48, 0x0f, 0xae, 0x2c, 0x25], INITIAL));
    code.push(0xfc); // cld
    code.push(0xc3);
    code
}
