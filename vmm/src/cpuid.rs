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

/// The features common to all vCPUs of a machine.
pub(crate) struct Features {
    supported: CpuId,
    tsc_deadline: bool,
    hyperv: bool,
}

/// Leaves in which a hypervisor tells of itself.
const HYPERVISOR_LEAVES: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;

impl Features {
    /// Asks KVM. With `hyperv` the guest sees Hyper-V's interface instead of KVM's.
    pub(crate) fn of(kvm: &Kvm, hyperv: bool) -> Result<Self, KvmError> {
        Ok(Self {
            supported: kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(KvmError::refused("list the CPUID features"))?,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            hyperv,
        })
    }

    /// Whether the guest sees Hyper-V's interface.
    pub(crate) fn hyperv(&self) -> bool {
        self.hyperv
    }

    /// Whether the guest's processors have AVX, with its registers where they always are.
    pub(crate) fn avx(&self) -> bool {
        let leaf = |function, index| {
            let mut all = self.supported.as_slice().iter();
            all.find(|entry| entry.function == function && entry.index == index)
        };
        leaf(1, 0).is_some_and(|entry| entry.ecx & LEAF1_ECX_AVX != 0)
            && leaf(0xd, 2).is_some_and(|entry| entry.ebx as usize == YMM_HIGH_OFFSET)
    }

    /// Bits of a guest-physical address: those of the host, as KVM says them. 36 where it does not.
    pub(crate) fn address_bits(&self) -> u32 {
        let leaf = self
            .supported
            .as_slice()
            .iter()
            .find(|entry| entry.function == 0x8000_0008);
        leaf.map_or(36, |entry| entry.eax & 0xff)
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
            entries.extend(hyperv::leaves());
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
                // Bits of a linear address.
                let linear = (entry.eax >> 8 & 0xff).min(48);
                entry.eax = entry.eax & !0xff00 | linear << 8;
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

    #[test]
    fn a_host_with_five_levels_of_paging_gives_its_guests_four() {
        let host = [
            entry(7, 0, u32::MAX),
            entry(7, 1, u32::MAX),
            entry(0x8000_0008, 0, 0x3934),
        ];
        let features = Features {
            supported: CpuId::from_entries(&host).unwrap(),
            tsc_deadline: true,
            hyperv: false,
        };
        let guest = features.for_vcpu(0, 1).unwrap();
        let leaf = |function, index| {
            let mut all = guest.as_slice().iter();
            *all.find(|entry| (entry.function, entry.index) == (function, index))
                .unwrap()
        };
        assert_eq!(leaf(7, 0).ecx, !(1 << 16));
        assert_eq!((leaf(7, 0).ebx, leaf(7, 1).ecx), (u32::MAX, u32::MAX));
        assert_eq!(leaf(0x8000_0008, 0).eax, 0x3034);
    }
}
