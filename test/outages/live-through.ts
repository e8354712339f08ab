/** An outage of a person's link under the one machine that runs in their home, with the probes of `probes.ts` all the while. */
import { expect } from 'vitest';
import { openHome, SupervisorClient } from '@collective/transceiver';
import type { Person } from '../support/collective.js';
import { debianOf } from '../support/debian.js';
import { eventually } from '../support/eventually.js';
import type { Link } from '../support/link.js';
import { awakeMs, machineNow, type MachineNow } from '../support/promise-time.js';
import { Probes, type Answers } from './probes.js';

export type Outage = { readonly kind: 'reset' | 'silence'; readonly outageMs: number };

export type Lived = {
  readonly answers: Answers;
  readonly pausedWhy: string | undefined;
  /** How long `collective status` took. */
  readonly commandMs: number;
  readonly goesOnAfterMs: number;
  readonly before: MachineNow;
  readonly after: MachineNow;
};

/** The link goes away, stays away, and comes back; resolves when the machine, which was paused all the while, runs again. */
export const liveThrough = async (person: Person, link: Link, { kind, outageMs }: Outage): Promise<Lived> => {
  const home = await openHome(person.home);
  const client = await SupervisorClient.connect(home);
  try {
    const machine = (await client.request('status', {})).machines[0]?.machine ?? '';
    const before = machineNow();
    if (kind === 'reset') link.down();
    else link.silence();
    const cutAtMs = performance.now();
    await using probes = await Probes.begin(home, machine);
    await client.waitForState(machine, ({ name }) => name === 'paused', AbortSignal.timeout(120_000));
    const askedAtMs = awakeMs();
    const paused = await debianOf(person);
    const commandMs = Math.round(awakeMs() - askedAtMs);
    expect(paused).toMatchObject({ state: 'paused', pausedWhy: expect.stringMatching(/block|failed/) as unknown });
    await eventually('the outage is over', outageMs + 60_000, async () => {
      const { state } = (await client.request('status', {})).machines[0] ?? { state: undefined };
      expect(state).toMatchObject({ name: 'paused', cause: 'disk' });
      return performance.now() - cutAtMs >= outageMs ? true : undefined;
    });
    const answers = await probes.end();
    const running = client.waitForState(machine, ({ name }) => name === 'running', AbortSignal.timeout(120_000));
    link.up();
    const backAtMs = awakeMs();
    await running;
    const goesOnAfterMs = Math.round(awakeMs() - backAtMs);
    return { answers, pausedWhy: paused?.pausedWhy, commandMs, goesOnAfterMs, before, after: machineNow() };
  } finally {
    client.close();
  }
};
