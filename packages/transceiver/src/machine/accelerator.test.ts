import { hasCode } from '@collective/shared';
import { describe, expect, test } from 'vitest';
import { type AcceleratorProbe, findAccelerator } from './accelerator.js';

const probe = (flags: string, kvmProblem?: string): AcceleratorProbe => ({
  cpuInfo: () => Promise.resolve(`processor\t: 0\nflags\t\t: fpu ${flags} sse2\nbogomips\t: 1\n`),
  kvmProblem: () => Promise.resolve(kvmProblem),
});

describe('accelerator', () => {
  test('auto with svm and a /dev/kvm that opens is KVM', async () => {
    expect(await findAccelerator('auto', probe('svm'))).toEqual({ accelerator: 'kvm', reason: 'KVM' });
    expect(await findAccelerator('auto', probe('vmx'))).toMatchObject({ accelerator: 'kvm' });
  });

  test('auto without vmx and svm is TCG though /dev/kvm opens, and says why', async () => {
    expect(await findAccelerator('auto', probe('svm_lock'))).toEqual({
      accelerator: 'tcg',
      reason: 'TCG (slow): the processor shows neither vmx nor svm',
    });
  });

  test('auto with vmx and a closed /dev/kvm is TCG and says why', async () => {
    const { accelerator, reason } = await findAccelerator('auto', probe('vmx', 'EACCES: permission denied'));
    expect(accelerator).toBe('tcg');
    expect(reason).toContain('permission denied');
  });

  test('KVM asked for and not there is an error, not TCG in silence', async () => {
    const error: unknown = await findAccelerator('kvm', probe('', 'ENOENT')).catch((failure: unknown) => failure);
    expect(hasCode(error, 'missing-program')).toBe(true);
  });
});
