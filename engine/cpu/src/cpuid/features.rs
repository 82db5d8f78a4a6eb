//! The one table of features: Linux's name (QEMU's for what KVM offers), the CPUID bit, the first model that has it, and who must provide it.

/// A register of a CPUID leaf that holds feature bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Leaf1Edx,
    Leaf1Ecx,
    Leaf6Eax,
    Leaf7Ebx,
    Leaf7Ecx,
    Leaf7Edx,
    LeafDEax,
    Extended1Edx,
    Extended1Ecx,
    Extended7Edx,
    /// Whether there are KVM's leaves at all.
    KvmSignature,
    /// EAX of KVM's leaf 0x40000001.
    Kvm1Eax,
}

impl Word {
    /// Its value where `leaf` gives EAX, EBX, ECX, EDX of a leaf and subleaf.
    pub(super) fn of(self, leaf: impl Fn(u32, u32) -> [u32; 4]) -> u32 {
        let (number, subleaf, register) = match self {
            Word::Leaf1Edx => (1, 0, 3),
            Word::Leaf1Ecx => (1, 0, 2),
            Word::Leaf6Eax => (6, 0, 0),
            Word::Leaf7Ebx => (7, 0, 1),
            Word::Leaf7Ecx => (7, 0, 2),
            Word::Leaf7Edx => (7, 0, 3),
            Word::LeafDEax => (0xd, 1, 0),
            Word::Extended1Edx => (0x8000_0001, 0, 3),
            Word::Extended1Ecx => (0x8000_0001, 0, 2),
            Word::Extended7Edx => (0x8000_0007, 0, 3),
            // The engine's own matter, no other processor's.
            Word::KvmSignature | Word::Kvm1Eax => return 0,
        };
        leaf(number, subleaf)[register]
    }
}

/// Who makes a feature work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    /// The engine by itself.
    Engine,
    /// The host's processor must have it too: its instructions run there.
    Host,
}

/// The first named model that has a feature; each has all of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    V1,
    V2,
    V3,
    V4,
    Max,
}

impl Level {
    pub(super) const ALL: [(Level, &'static str); 5] = [
        (Level::Max, "max"),
        (Level::V1, "x86-64-v1"),
        (Level::V2, "x86-64-v2"),
        (Level::V3, "x86-64-v3"),
        (Level::V4, "x86-64-v4"),
    ];
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub feature: Feature,
    pub name: &'static str,
    pub word: Word,
    pub bit: u32,
    pub level: Level,
    pub provider: Provider,
    /// Features without which this one makes no sense.
    pub needs: &'static [Feature],
}

macro_rules! features {
    ($($feature:ident $name:literal $word:ident $bit:literal $level:ident $provider:ident [$($need:ident)*];)*) => {
        /// A feature that CPUID can report.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        #[repr(u8)]
        pub enum Feature { $($feature,)* }

        /// The table, in the order of `Feature`.
        pub(super) const TABLE: &[Row] = &[$(Row {
            feature: Feature::$feature,
            name: $name,
            word: Word::$word,
            bit: $bit,
            level: Level::$level,
            provider: Provider::$provider,
            needs: &[$(Feature::$need),*],
        },)*];
    };
}

features! {
    Fpu "fpu" Leaf1Edx 0 V1 Engine [];
    Vme "vme" Leaf1Edx 1 V1 Engine [];
    De "de" Leaf1Edx 2 V1 Engine [];
    Pse "pse" Leaf1Edx 3 V1 Engine [];
    Tsc "tsc" Leaf1Edx 4 V1 Engine [];
    Msr "msr" Leaf1Edx 5 V1 Engine [];
    Pae "pae" Leaf1Edx 6 V1 Engine [];
    Mce "mce" Leaf1Edx 7 V1 Engine [];
    Cx8 "cx8" Leaf1Edx 8 V1 Engine [];
    Apic "apic" Leaf1Edx 9 V1 Engine [];
    Sep "sep" Leaf1Edx 11 V1 Engine [];
    Mtrr "mtrr" Leaf1Edx 12 V1 Engine [];
    Pge "pge" Leaf1Edx 13 V1 Engine [];
    Mca "mca" Leaf1Edx 14 V1 Engine [Mce];
    Cmov "cmov" Leaf1Edx 15 V1 Engine [];
    Pat "pat" Leaf1Edx 16 V1 Engine [];
    Pse36 "pse36" Leaf1Edx 17 V1 Engine [Pse];
    Clflush "clflush" Leaf1Edx 19 V1 Host [];
    Mmx "mmx" Leaf1Edx 23 V1 Host [Fpu];
    Fxsr "fxsr" Leaf1Edx 24 V1 Host [Fpu];
    Sse "sse" Leaf1Edx 25 V1 Host [Fxsr];
    Sse2 "sse2" Leaf1Edx 26 V1 Host [Sse];

    Sse3 "pni" Leaf1Ecx 0 V2 Host [Sse2];
    Pclmulqdq "pclmulqdq" Leaf1Ecx 1 Max Host [Sse2];
    Vmx "vmx" Leaf1Ecx 5 Max Engine [Lm];
    Ssse3 "ssse3" Leaf1Ecx 9 V2 Host [Sse3];
    Fma "fma" Leaf1Ecx 12 V3 Host [Avx];
    Cx16 "cx16" Leaf1Ecx 13 V2 Host [Cx8];
    Pcid "pcid" Leaf1Ecx 17 V1 Engine [];
    Sse41 "sse4_1" Leaf1Ecx 19 V2 Host [Ssse3];
    Sse42 "sse4_2" Leaf1Ecx 20 V2 Host [Sse41];
    X2apic "x2apic" Leaf1Ecx 21 V1 Engine [Apic];
    Movbe "movbe" Leaf1Ecx 22 V3 Host [];
    Popcnt "popcnt" Leaf1Ecx 23 V2 Host [];
    TscDeadline "tsc_deadline_timer" Leaf1Ecx 24 V1 Engine [Apic Tsc];
    Aes "aes" Leaf1Ecx 25 Max Host [Sse2];
    Xsave "xsave" Leaf1Ecx 26 V3 Host [Fxsr];
    Avx "avx" Leaf1Ecx 28 V3 Host [Xsave Sse42];
    F16c "f16c" Leaf1Ecx 29 V3 Host [Avx];
    Rdrand "rdrand" Leaf1Ecx 30 Max Engine [];
    Hypervisor "hypervisor" Leaf1Ecx 31 V1 Engine [];

    Arat "arat" Leaf6Eax 2 V1 Engine [Apic];

    Fsgsbase "fsgsbase" Leaf7Ebx 0 V1 Engine [];
    TscAdjust "tsc_adjust" Leaf7Ebx 1 V1 Engine [Tsc];
    Bmi1 "bmi1" Leaf7Ebx 3 V3 Host [];
    Avx2 "avx2" Leaf7Ebx 5 V3 Host [Avx];
    Smep "smep" Leaf7Ebx 7 V1 Engine [];
    Bmi2 "bmi2" Leaf7Ebx 8 V3 Host [];
    Erms "erms" Leaf7Ebx 9 V1 Engine [];
    Invpcid "invpcid" Leaf7Ebx 10 V1 Engine [];
    ZeroFcsFds "zero_fcs_fds" Leaf7Ebx 13 V1 Engine [];
    Avx512f "avx512f" Leaf7Ebx 16 V4 Host [Avx2 Fma];
    Avx512dq "avx512dq" Leaf7Ebx 17 V4 Host [Avx512f];
    Rdseed "rdseed" Leaf7Ebx 18 Max Engine [];
    Adx "adx" Leaf7Ebx 19 Max Host [];
    Smap "smap" Leaf7Ebx 20 V1 Engine [];
    Avx512ifma "avx512ifma" Leaf7Ebx 21 Max Host [Avx512f];
    Clflushopt "clflushopt" Leaf7Ebx 23 Max Host [Clflush];
    Clwb "clwb" Leaf7Ebx 24 Max Host [Clflush];
    Avx512cd "avx512cd" Leaf7Ebx 28 V4 Host [Avx512f];
    Sha "sha_ni" Leaf7Ebx 29 Max Host [Sse2];
    Avx512bw "avx512bw" Leaf7Ebx 30 V4 Host [Avx512f];
    Avx512vl "avx512vl" Leaf7Ebx 31 V4 Host [Avx512f];

    Avx512vbmi "avx512vbmi" Leaf7Ecx 1 Max Host [Avx512bw];
    Umip "umip" Leaf7Ecx 2 V1 Engine [];
    Pku "pku" Leaf7Ecx 3 Max Engine [Xsave];
    Avx512vbmi2 "avx512_vbmi2" Leaf7Ecx 6 Max Host [Avx512bw];
    Gfni "gfni" Leaf7Ecx 8 Max Host [Sse2];
    Vaes "vaes" Leaf7Ecx 9 Max Host [Avx Aes];
    Vpclmulqdq "vpclmulqdq" Leaf7Ecx 10 Max Host [Avx Pclmulqdq];
    Avx512vnni "avx512_vnni" Leaf7Ecx 11 Max Host [Avx512f];
    Avx512bitalg "avx512_bitalg" Leaf7Ecx 12 Max Host [Avx512bw];
    Avx512vpopcntdq "avx512_vpopcntdq" Leaf7Ecx 14 Max Host [Avx512f];
    Rdpid "rdpid" Leaf7Ecx 22 Max Engine [];

    Fsrm "fsrm" Leaf7Edx 4 V1 Engine [Erms];
    ArchCapabilities "arch_capabilities" Leaf7Edx 29 V1 Engine [];

    Xsaveopt "xsaveopt" LeafDEax 0 V3 Engine [Xsave];
    Xsavec "xsavec" LeafDEax 1 V3 Engine [Xsave];
    Xgetbv1 "xgetbv1" LeafDEax 2 V3 Engine [Xsave];
    Xsaves "xsaves" LeafDEax 3 V3 Engine [Xsavec];

    Syscall "syscall" Extended1Edx 11 V1 Engine [];
    Nx "nx" Extended1Edx 20 V1 Engine [];
    Pdpe1gb "pdpe1gb" Extended1Edx 26 V1 Engine [Lm];
    Rdtscp "rdtscp" Extended1Edx 27 V1 Engine [Tsc];
    Lm "lm" Extended1Edx 29 V1 Engine [Pae];

    LahfLm "lahf_lm" Extended1Ecx 0 V2 Engine [];
    Abm "abm" Extended1Ecx 5 V3 Host [];
    Prefetchw "3dnowprefetch" Extended1Ecx 8 V1 Host [];

    InvariantTsc "constant_tsc" Extended7Edx 8 V1 Engine [Tsc];

    Kvm "kvm" KvmSignature 0 V1 Engine [Hypervisor];
    KvmNoIoDelay "kvm-nopiodelay" Kvm1Eax 1 V1 Engine [Kvm];
    KvmClock "kvmclock" Kvm1Eax 3 V1 Engine [Kvm Tsc];
    KvmStealTime "kvm-steal-time" Kvm1Eax 5 V1 Engine [Kvm];
    KvmEndOfInterrupt "kvm-pv-eoi" Kvm1Eax 6 V1 Engine [Kvm Apic];
    KvmUnhalt "kvm-pv-unhalt" Kvm1Eax 7 V1 Engine [Kvm];
    KvmTlbFlush "kvm-pv-tlb-flush" Kvm1Eax 9 V1 Engine [KvmStealTime];
    KvmSendIpi "kvm-pv-ipi" Kvm1Eax 11 V1 Engine [Kvm Apic];
    KvmClockStable "kvmclock-stable-bit" Kvm1Eax 24 V1 Engine [KvmClock];
}
