/** Machines at rest take the names under which all devices of the person know them (own-names.ts), one after the other. */
import { readdir } from 'node:fs/promises';
import type { Profile } from '@collective/shared';
import type { Home } from '../home.js';
import { nextMove, planNames, type OwnMachine, type Renaming } from './own-names.js';

export type NamedMachines = {
  readonly home: Pick<Home, 'machinesDirectory'>;
  readonly profile: Profile | undefined;
  readonly own: () => readonly OwnMachine[];
  /** Nothing of it runs, is suspended or is being started. */
  readonly isAtRest: (name: string) => boolean;
  /** Notes durably that the machine is to have that name. */
  readonly moveTo: (from: string, to: string) => Promise<void>;
  /** Moves what is noted to be moved. Its name: another one where that is taken; the same when it is not at rest any more. */
  readonly move: (from: string) => Promise<string>;
};

/** Those that have another name now. Errors: those of `moveTo` and `move`; what was moved before stays so. */
export async function followNames(machines: NamedMachines): Promise<readonly Renaming[]> {
  const { home, profile, own, isAtRest, moveTo, move } = machines;
  /** Which name each had before, by the one that it has now. */
  const before = new Map<string, string>();
  for (;;) {
    // Also by what the profile does not have yet.
    const taken = await readdir(home.machinesDirectory);
    const next = nextMove(planNames(profile, own()), { taken, isAtRest });
    if (next === undefined) break;
    const { from, to, isNoted } = next;
    if (!isNoted) await moveTo(from, to);
    const now = await move(from);
    if (now === from) break;
    before.set(now, before.get(from) ?? from);
    before.delete(from);
  }
  return [...before].flatMap(([to, from]) => (to === from ? [] : [{ from, to }]));
}
