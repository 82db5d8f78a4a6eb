"""Written by tests/unit/vmx/stubs.py from the engine's tables."""

from gasang._engine import DescriptorTable, Segment
from gasang.vmx.area import Area

class Guest(Area):
    """State of the guest: VM entries load it, VM exits save it (SDM vol. 3, 25.4).

    `cs` and the other segment registers, `ldtr` and `tr` are `Segment`s, `gdtr` and `idtr`
    `DescriptorTable`s; their parts are fields too (`cs_base`).
    """

    es_selector: int
    cs_selector: int
    ss_selector: int
    ds_selector: int
    fs_selector: int
    gs_selector: int
    ldtr_selector: int
    tr_selector: int
    interrupt_status: int
    pml_index: int
    uinv: int
    vmcs_link_pointer: int
    debugctl: int
    pat: int
    efer: int
    perf_global_ctrl: int
    pdpte_0: int
    pdpte_1: int
    pdpte_2: int
    pdpte_3: int
    bndcfgs: int
    rtit_ctl: int
    lbr_ctl: int
    pkrs: int
    es_limit: int
    cs_limit: int
    ss_limit: int
    ds_limit: int
    fs_limit: int
    gs_limit: int
    ldtr_limit: int
    tr_limit: int
    gdtr_limit: int
    idtr_limit: int
    es_access_rights: int
    cs_access_rights: int
    ss_access_rights: int
    ds_access_rights: int
    fs_access_rights: int
    gs_access_rights: int
    ldtr_access_rights: int
    tr_access_rights: int
    interruptibility_state: int
    blocking_by_sti: bool
    blocking_by_mov_ss: bool
    blocking_by_smi: bool
    blocking_by_nmi: bool
    enclave_interruption: bool
    activity_state: int
    smbase: int
    sysenter_cs: int
    preemption_timer_value: int
    cr0: int
    cr3: int
    cr4: int
    es_base: int
    cs_base: int
    ss_base: int
    ds_base: int
    fs_base: int
    gs_base: int
    ldtr_base: int
    tr_base: int
    gdtr_base: int
    idtr_base: int
    dr7: int
    rsp: int
    rip: int
    rflags: int
    pending_debug_exceptions: int
    b0: bool
    b1: bool
    b2: bool
    b3: bool
    bld: bool
    enabled_breakpoint: bool
    bs: bool
    rtm: bool
    sysenter_esp: int
    sysenter_eip: int
    s_cet: int
    ssp: int
    interrupt_ssp_table_address: int
    es: Segment
    cs: Segment
    ss: Segment
    ds: Segment
    fs: Segment
    gs: Segment
    ldtr: Segment
    tr: Segment
    gdtr: DescriptorTable
    idtr: DescriptorTable

class Host(Area):
    """State of the host: VM exits load it (SDM vol. 3, 25.5)."""

    es_selector: int
    cs_selector: int
    ss_selector: int
    ds_selector: int
    fs_selector: int
    gs_selector: int
    tr_selector: int
    pat: int
    efer: int
    perf_global_ctrl: int
    pkrs: int
    sysenter_cs: int
    cr0: int
    cr3: int
    cr4: int
    fs_base: int
    gs_base: int
    tr_base: int
    gdtr_base: int
    idtr_base: int
    sysenter_esp: int
    sysenter_eip: int
    rsp: int
    rip: int
    s_cet: int
    ssp: int
    interrupt_ssp_table_address: int

class Execution(Area):
    """VM-execution controls: what happens in VMX non-root operation (SDM vol. 3, 25.6)."""

    vpid: int
    posted_interrupt_notification_vector: int
    eptp_index: int
    hlat_prefix_size: int
    last_pid_pointer_index: int
    io_bitmap_a: int
    io_bitmap_b: int
    msr_bitmaps: int
    executive_vmcs_pointer: int
    pml_address: int
    tsc_offset: int
    virtual_apic_address: int
    apic_access_address: int
    posted_interrupt_descriptor_address: int
    vm_function_controls: int
    ept_pointer: int
    eoi_exit_bitmap_0: int
    eoi_exit_bitmap_1: int
    eoi_exit_bitmap_2: int
    eoi_exit_bitmap_3: int
    eptp_list_address: int
    vmread_bitmap: int
    vmwrite_bitmap: int
    virtualization_exception_information_address: int
    xss_exiting_bitmap: int
    encls_exiting_bitmap: int
    sub_page_permission_table_pointer: int
    tsc_multiplier: int
    tertiary_controls: int
    loadiwkey_exiting: bool
    enable_hlat: bool
    ept_paging_write: bool
    guest_paging_verification: bool
    ipi_virtualization: bool
    virtualize_spec_ctrl: bool
    enclv_exiting_bitmap: int
    low_pasid_directory_address: int
    high_pasid_directory_address: int
    shared_ept_pointer: int
    pconfig_exiting_bitmap: int
    hlat_pointer: int
    pid_pointer_table_address: int
    spec_ctrl_mask: int
    spec_ctrl_shadow: int
    pin_based_controls: int
    external_interrupt_exiting: bool
    nmi_exiting: bool
    virtual_nmis: bool
    activate_preemption_timer: bool
    process_posted_interrupts: bool
    primary_controls: int
    interrupt_window_exiting: bool
    use_tsc_offsetting: bool
    hlt_exiting: bool
    invlpg_exiting: bool
    mwait_exiting: bool
    rdpmc_exiting: bool
    rdtsc_exiting: bool
    cr3_load_exiting: bool
    cr3_store_exiting: bool
    activate_tertiary_controls: bool
    cr8_load_exiting: bool
    cr8_store_exiting: bool
    use_tpr_shadow: bool
    nmi_window_exiting: bool
    mov_dr_exiting: bool
    unconditional_io_exiting: bool
    use_io_bitmaps: bool
    monitor_trap_flag: bool
    use_msr_bitmaps: bool
    monitor_exiting: bool
    pause_exiting: bool
    activate_secondary_controls: bool
    exception_bitmap: int
    page_fault_error_code_mask: int
    page_fault_error_code_match: int
    cr3_target_count: int
    tpr_threshold: int
    secondary_controls: int
    virtualize_apic_accesses: bool
    enable_ept: bool
    descriptor_table_exiting: bool
    enable_rdtscp: bool
    virtualize_x2apic_mode: bool
    enable_vpid: bool
    wbinvd_exiting: bool
    unrestricted_guest: bool
    apic_register_virtualization: bool
    virtual_interrupt_delivery: bool
    pause_loop_exiting: bool
    rdrand_exiting: bool
    enable_invpcid: bool
    enable_vm_functions: bool
    vmcs_shadowing: bool
    encls_exiting: bool
    rdseed_exiting: bool
    enable_pml: bool
    ept_violation_exception: bool
    conceal_vmx_from_pt: bool
    enable_xsaves: bool
    pasid_translation: bool
    mode_based_execute_control: bool
    sub_page_write_permissions: bool
    pt_uses_guest_physical_addresses: bool
    use_tsc_scaling: bool
    enable_user_wait_and_pause: bool
    enable_pconfig: bool
    enclv_exiting: bool
    bus_lock_detection: bool
    instruction_timeout: bool
    ple_gap: int
    ple_window: int
    instruction_timeout_control: int
    cr0_guest_host_mask: int
    cr4_guest_host_mask: int
    cr0_read_shadow: int
    cr4_read_shadow: int
    cr3_target_value_0: int
    cr3_target_value_1: int
    cr3_target_value_2: int
    cr3_target_value_3: int

class ExitControls(Area):
    """VM-exit controls (SDM vol. 3, 25.7)."""

    msr_store_address: int
    msr_load_address: int
    secondary_controls: int
    controls: int
    save_debug_controls: bool
    host_address_space_size: bool
    load_perf_global_ctrl: bool
    acknowledge_interrupt: bool
    save_pat: bool
    load_pat: bool
    save_efer: bool
    load_efer: bool
    save_preemption_timer: bool
    clear_bndcfgs: bool
    conceal_vmx_from_pt: bool
    clear_rtit_ctl: bool
    clear_lbr_ctl: bool
    clear_uinv: bool
    load_cet_state: bool
    load_pkrs: bool
    save_perf_global_ctrl: bool
    activate_secondary_controls: bool
    msr_store_count: int
    msr_load_count: int

class EntryControls(Area):
    """VM-entry controls (SDM vol. 3, 25.8)."""

    msr_load_address: int
    controls: int
    load_debug_controls: bool
    ia32e_mode_guest: bool
    entry_to_smm: bool
    deactivate_dual_monitor: bool
    load_perf_global_ctrl: bool
    load_pat: bool
    load_efer: bool
    load_bndcfgs: bool
    conceal_vmx_from_pt: bool
    load_rtit_ctl: bool
    load_uinv: bool
    load_cet_state: bool
    load_lbr_ctl: bool
    load_pkrs: bool
    msr_load_count: int
    interruption_information: int
    exception_error_code: int
    instruction_length: int

class ExitInformation(Area):
    """Why the last VM exit happened, and the last VM-instruction error (SDM vol. 3, 25.9). Read-only."""

    @property
    def guest_physical_address(self) -> int: ...
    @property
    def instruction_error(self) -> int: ...
    @property
    def reason(self) -> int: ...
    @property
    def interruption_information(self) -> int: ...
    @property
    def interruption_error_code(self) -> int: ...
    @property
    def idt_vectoring_information(self) -> int: ...
    @property
    def idt_vectoring_error_code(self) -> int: ...
    @property
    def instruction_length(self) -> int: ...
    @property
    def instruction_information(self) -> int: ...
    @property
    def qualification(self) -> int: ...
    @property
    def io_rcx(self) -> int: ...
    @property
    def io_rsi(self) -> int: ...
    @property
    def io_rdi(self) -> int: ...
    @property
    def io_rip(self) -> int: ...
    @property
    def guest_linear_address(self) -> int: ...

AREAS: tuple[type[Area], ...]
