/** Milliseconds, the same in all processes of a machine to a fraction of one. */
export const nowOfMachineMs = (): number => performance.timeOrigin + performance.now();
