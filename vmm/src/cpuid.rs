//! What CPUID tells the guest: the features that KVM supports on this host, without virtualization, with this machine's
//! topology.
//!
//! Asks KVM what it supports. It must not know machines. Sources: Intel SDM volume 2 (CPUID), AMD APM volume 3 appendix
//! E.
#![forbid(unsafe_code)]

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use crate::hyperv;
use crate::kvm::KvmError;
use crate::kvm::unwrapped::supported_hyperv_cpuid;
use crate::registers::YMM_HIGH_OFFSET;

const LEAF1_ECX_VMX: u32 = 1 << 5;
const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_AVX: u32 = 1 << 28;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;
/// Leaf 7: 57-bit linear addresses (5-level paging).
const LEAF7_ECX_LA57: u32 = 1 << 16;
const EXTENDED1_ECX_CMP_LEGACY: u32 = 1 << 1;
const EXTENDED1_ECX_SVM: u32 = 1 << 2;
/// Leaf 7: IBRS and IBPB, controlled by IA32_SPEC_CTRL.
const LEAF7_EDX_SPEC_CTRL: u32 = 1 << 26;
/// Leaf 80000008H: IBRS, STIBP and SSBD, each controlled by IA32_SPEC_CTRL.
const EXTENDED8_EBX_SPEC_CTRL: u32 = 1 << 14 | 1 << 15 | 1 << 24;
/// The same: predictive store forwarding can be disabled, by IA32_SPEC_CTRL too.
const EXTENDED8_EBX_PSFD: u32 = 1 << 28;
/// The bits of a guest-physical address that every 64-bit guest must be able to do with.
const LEAST_ADDRESS_BITS: u32 = 36;

/// The features common to all vCPUs of a machine.
pub(crate) struct Features {
    supported: CpuId,
    tsc_deadline: bool,
    hyperv: bool,
    /// KVM takes input of hypercalls in XMM registers.
    xmm_input: bool,
    /// Bits of a guest-physical address, at most [`Features::host_address_bits`].
    pub(crate) address_bits: u32,
}

/// Leaves in which a hypervisor tells of itself.
const HYPERVISOR_LEAVES: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;

impl Features {
    /// Asks KVM. With `hyperv` the guest sees Hyper-V's interface instead of KVM's.
    pub(crate) fn of(kvm: &Kvm, hyperv: bool) -> Result<Self, KvmError> {
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(KvmError::refused("list the CPUID features"))?;
        let leaves = if hyperv { supported_hyperv_cpuid(kvm)? } else { None };
        let mut features = Self {
            supported,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            hyperv,
            xmm_input: leaves.is_some_and(|leaves| hyperv::takes_xmm_input(leaves.as_slice())),
            address_bits: 0,
        };
        features.address_bits = features.host_address_bits();
        Ok(features)
    }

    fn leaf(&self, function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
        let mut all = self.supported.as_slice().iter();
        all.find(|entry| entry.function == function && entry.index == index)
    }

    /// Whether the guest sees Hyper-V's interface.
    pub(crate) fn hyperv(&self) -> bool {
        self.hyperv
    }

    /// Whether the guest's processors have AVX, with its registers where they always are.
    pub(crate) fn avx(&self) -> bool {
        self.leaf(1, 0).is_some_and(|entry| entry.ecx & LEAF1_ECX_AVX != 0)
            && self
                .leaf(0xd, 2)
                .is_some_and(|entry| entry.ebx as usize == YMM_HIGH_OFFSET)
    }

    /// Bits of a guest-physical address that this host can map; 36 if KVM does not say. A host may have more than KVM can
    /// map for a guest, which newer KVM says in bits 23:16 (Linux commit b628cb523c65).
    pub(crate) fn host_address_bits(&self) -> u32 {
        let Some(leaf) = self.leaf(0x8000_0008, 0) else {
            return LEAST_ADDRESS_BITS;
        };
        let (host, guest) = (leaf.eax & 0xff, leaf.eax >> 16 & 0xff);
        let bits = if guest == 0 { host } else { host.min(guest) };
        bits.max(LEAST_ADDRESS_BITS)
    }

    /// Bits of a guest-physical address of processors that many guests and their firmware were made for: 40 for AMD's,
    /// 39 for others. OVMF believes these numbers, and others only from 41 up.
    pub(crate) fn usual_address_bits(&self) -> u32 {
        let vendor = |name: &[u8; 12]| {
            self.leaf(0, 0).is_some_and(|leaf| {
                let words = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
                words.concat() == name
            })
        };
        if vendor(b"AuthenticAMD") || vendor(b"HygonGenuine") {
            40
        } else {
            39
        }
    }

    /// Has guests see so many bits of a guest-physical address; at most [`Features::host_address_bits`].
    pub(crate) fn limit_address_bits(&mut self, bits: u32) {
        self.address_bits = bits.min(self.host_address_bits());
    }

    /// Whether IA32_SPEC_CTRL is there, as KVM decides it for a guest with these features.
    fn has_spec_ctrl(&self) -> bool {
        self.leaf(7, 0).is_some_and(|leaf| leaf.edx & LEAF7_EDX_SPEC_CTRL != 0)
            || (self.leaf(0x8000_0008, 0)).is_some_and(|leaf| leaf.ebx & EXTENDED8_EBX_SPEC_CTRL != 0)
    }

    /// The set for vCPU `index` of `count` (1 to 64): one package, one thread a core, APIC IDs 0 and up.
    pub(crate) fn for_vcpu(&self, index: u32, count: u32) -> Result<CpuId, KvmError> {
        let too_many = |_| KvmError::TooLong("KVM's list of CPUID features");
        // Topology leaves have subleaves of their own number; they are made anew.
        let mut entries: Vec<_> = self
            .supported
            .as_slice()
            .iter()
            .filter(|entry| !matches!(entry.function, 0xb | 0x1f | 0x8000_0026))
            .filter(|entry| !(self.hyperv && HYPERVISOR_LEAVES.contains(&entry.function)))
            .copied()
            .collect();
        for entry in &mut entries {
            self.adjust(entry, index, count);
        }
        entries.extend(topology(index, count));
        if self.hyperv {
            entries.extend(hyperv::leaves(self.xmm_input));
        }
        CpuId::from_entries(&entries).map_err(too_many)
    }

    fn adjust(&self, entry: &mut kvm_cpuid_entry2, index: u32, count: u32) {
        match entry.function {
            1 => {
                entry.ecx &= !(LEAF1_ECX_VMX | LEAF1_ECX_TSC_DEADLINE);
                entry.ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC;
                if self.tsc_deadline {
                    entry.ecx |= LEAF1_ECX_TSC_DEADLINE;
                }
                // Initial APIC ID, and the number of IDs of the package.
                entry.ebx = entry.ebx & 0xffff | count.next_power_of_two() << 16 | index << 24;
                entry.edx &= !LEAF1_EDX_HTT;
                if count > 1 {
                    entry.edx |= LEAF1_EDX_HTT;
                }
            }
            // Cache leaves: no thread shares a core's caches; the third level belongs to the package.
            4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                let sharing = if (entry.eax >> 5) & 7 >= 3 {
                    count.next_power_of_two() - 1
                } else {
                    0
                };
                entry.eax = entry.eax & 0x3fff | sharing << 14;
                if entry.function == 4 {
                    entry.eax |= (count.next_power_of_two() - 1) << 26;
                }
            }
            // What is monitored and debugged has four levels: `crate::debug` checks 48-bit addresses. KVM refuses CR4.LA57
            // to a guest without the feature, as the processor does.
            7 if entry.index == 0 => entry.ecx &= !LEAF7_ECX_LA57,
            0x8000_0001 => {
                entry.ecx &= !(EXTENDED1_ECX_SVM | EXTENDED1_ECX_CMP_LEGACY);
            }
            // The core count, and how many bits of the APIC ID it takes.
            0x8000_0008 => {
                entry.ecx = entry.ecx & !0xf0ff | core_bits(count) << 12 | (count - 1);
                // Bits of a linear address, and those of a guest-physical one twice: guests take either number.
                let linear = (entry.eax >> 8 & 0xff).min(48);
                let bits = self.address_bits;
                entry.eax = entry.eax & !0xff_ffff | bits << 16 | linear << 8 | bits;
                // A guest that sees PSFD writes the register, which KVM refuses (reported for OpenVMM in its pull request
                // 3534).
                if !self.has_spec_ctrl() {
                    entry.ebx &= !EXTENDED8_EBX_PSFD;
                }
            }
            // SVM's own leaf.
            0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            // APIC ID, core and node of AMD's topology extensions.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
            _ => {}
        }
    }
}

/// Bits of the APIC ID that number the cores of the package.
fn core_bits(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// The extended topology leaf 0BH: threads of a core, cores of the package, end of the list.
fn topology(index: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    const SIGNIFICANT_INDEX: u32 = 1;
    let level = |subleaf: u32, shift: u32, processors: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index: subleaf,
        flags: SIGNIFICANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: kind << 8 | subleaf,
        edx: index,
        ..Default::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, core_bits(count), count, 2),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, value: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: value,
            ebx: value,
            ecx: value,
            edx: value,
            ..Default::default()
        }
    }

    fn features(host: &[kvm_cpuid_entry2]) -> Features {
        let mut features = Features {
            supported: CpuId::from_entries(host).unwrap(),
            tsc_deadline: true,
            hyperv: false,
            xmm_input: false,
            address_bits: 0,
        };
        features.address_bits = features.host_address_bits();
        features
    }

    /// A leaf of the first processor of two.
    fn guest_leaf(features: &Features, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let guest = features.for_vcpu(0, 2).unwrap();
        let mut all = guest.as_slice().iter();
        *all.find(|entry| (entry.function, entry.index) == (function, index))
            .unwrap()
    }

    #[test]
    fn a_host_with_five_levels_of_paging_gives_its_guests_four() {
        let features = features(&[
            entry(7, 0, u32::MAX),
            entry(7, 1, u32::MAX),
            entry(0x8000_0008, 0, 0x3934),
        ]);
        let leaf = |function, index| guest_leaf(&features, function, index);
        assert_eq!(leaf(7, 0).ecx, !(1 << 16));
        assert_eq!((leaf(7, 0).ebx, leaf(7, 1).ecx), (u32::MAX, u32::MAX));
        assert_eq!(leaf(0x8000_0008, 0).eax & 0xff00, 0x3000);
    }

    #[test]
    fn both_numbers_of_physical_address_bits_agree_and_are_what_the_host_can_map() {
        for (host, limit, expected) in [
            // The processor has 52 bits and KVM can map 48.
            (0x0030_3034, 64, 0x30_3030),
            // KVM does not say what it can map.
            (0x0000_3030, 64, 0x30_3030),
            (0x0030_3034, 40, 0x28_3028),
            (0x0000_3027, 40, 0x27_3027),
        ] {
            let mut features = features(&[entry(0x8000_0008, 0, host)]);
            features.limit_address_bits(limit);
            assert_eq!(guest_leaf(&features, 0x8000_0008, 0).eax, expected, "{host:#x}");
        }
    }

    #[test]
    fn the_usual_bits_follow_the_vendor() {
        let vendor = |words: [&[u8; 4]; 3]| kvm_cpuid_entry2 {
            ebx: u32::from_le_bytes(*words[0]),
            edx: u32::from_le_bytes(*words[1]),
            ecx: u32::from_le_bytes(*words[2]),
            ..Default::default()
        };
        let amd = vendor([b"Auth", b"enti", b"cAMD"]);
        let intel = vendor([b"Genu", b"ineI", b"ntel"]);
        let bits = [amd, intel].map(|leaf| features(&[leaf]).usual_address_bits());
        assert_eq!(bits, [40, 39]);
    }

    #[test]
    fn psfd_is_shown_with_the_register_that_controls_it_only() {
        let extended = |ebx| kvm_cpuid_entry2 {
            function: 0x8000_0008,
            ebx,
            ..Default::default()
        };
        let psfd =
            |host: &[kvm_cpuid_entry2]| guest_leaf(&features(host), 0x8000_0008, 0).ebx & EXTENDED8_EBX_PSFD != 0;
        assert!(!psfd(&[extended(EXTENDED8_EBX_PSFD), entry(7, 0, 0)]));
        assert!(psfd(&[extended(EXTENDED8_EBX_PSFD), entry(7, 0, LEAF7_EDX_SPEC_CTRL)]));
        for control in [1 << 14, 1 << 15, 1 << 24] {
            assert!(psfd(&[extended(EXTENDED8_EBX_PSFD | control)]), "{control:#x}");
        }
    }
}
