/**
 * Which of QEMU's accelerators runs the guests here. `auto` takes KVM only when the processor says that it can virtualise
 * (vmx or svm) *and* /dev/kvm opens: there are machines whose /dev/kvm opens and then hangs every stock guest, and on
 * those the flag is missing.
 */
import { close, open } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared';

export type Accelerator = 'kvm' | 'tcg';
export const ACCELERATOR_CHOICES = ['auto', 'kvm', 'tcg'] as const;
export type AcceleratorChoice = (typeof ACCELERATOR_CHOICES)[number];

/** What was chosen, and the reason as a sentence for `status` and `doctor`. */
export type AcceleratorFinding = { readonly accelerator: Accelerator; readonly reason: string };

export type AcceleratorProbe = {
  /** The text of /proc/cpuinfo. */
  readonly cpuInfo: () => Promise<string>;
  /** Undefined when /dev/kvm opens for reading and writing, else why it does not. */
  readonly kvmProblem: () => Promise<string | undefined>;
};

/** `kvm` is taken at its word when /dev/kvm opens, whatever the processor says. Errors: `missing-program` when it does not. */
export async function findAccelerator(
  choice: AcceleratorChoice,
  probe: AcceleratorProbe = localProbe,
): Promise<AcceleratorFinding> {
  if (choice === 'tcg') return { accelerator: 'tcg', reason: 'TCG, as asked for' };
  const problem = await probe.kvmProblem();
  if (choice === 'kvm') {
    if (problem === undefined) return { accelerator: 'kvm', reason: 'KVM, as asked for' };
    throw new CollectiveError('missing-program', `KVM was asked for, but /dev/kvm does not open: ${problem}`);
  }
  const flags = /^flags\s*:(.*)$/m.exec(await probe.cpuInfo())?.[1]?.split(/\s+/) ?? [];
  if (!flags.includes('vmx') && !flags.includes('svm')) {
    return { accelerator: 'tcg', reason: 'TCG (slow): the processor shows neither vmx nor svm' };
  }
  if (problem !== undefined) return { accelerator: 'tcg', reason: `TCG (slow): /dev/kvm does not open: ${problem}` };
  return { accelerator: 'kvm', reason: 'KVM' };
}

export const localProbe: AcceleratorProbe = {
  cpuInfo: () => readFile('/proc/cpuinfo', 'utf8'),
  kvmProblem: () =>
    new Promise((resolve) => {
      open('/dev/kvm', 'r+', (error, file) => {
        if (error !== null) resolve(error.message);
        else close(file, () => resolve(undefined));
      });
    }),
};
