/**
 * The workloads of figures 2 and 3, each on any block nodes: the workstation boots, compiles and is shut down; the tiny guest boots and is shut down.
 * A run of the workstation gives two of them: its boot with its shutdown, and the compilation between them on a guest that has only just booted.
 */
import type { ApplianceImages } from '../boot/appliance.js';
import { FigureGuest } from './figure-guest.js';
import type { Nodes } from './started-disks.js';

export const WORKLOADS = ['Debian boot and shutdown', 'tiny boot and shutdown', 'compilation in Debian'] as const;
export type Workload = (typeof WORKLOADS)[number];

/** Seconds by workload; what was fetched before the start is not in it. */
export type WorkloadSeconds = Readonly<Partial<Record<Workload, number>>>;

/**
 * gcc looks at all of zstd (50,000 lines of C) and translates none of it, which would take an emulated processor minutes; then a small program is
 * compiled, linked, written to the disk and run.
 */
const COMPILE =
  'cd /home && gcc -fsyntax-only /usr/local/src/zstd.c && printf \'#include <stdio.h>\\nint main(void){puts("compiled");return 0;}\\n\' >main.c && gcc -O1 -o main main.c && sync && ./main';

export const onDebian =
  (images: ApplianceImages) =>
  async (nodes: Nodes): Promise<WorkloadSeconds> => {
    await using guest = await FigureGuest.boot(images, nodes);
    await guest.login();
    const { seconds, output } = await guest.run(COMPILE);
    if (!/compiled\s*$/.test(output)) throw new Error(`the compiled program says ${JSON.stringify(output)}`);
    const shutdown = await guest.shutdown();
    return {
      'Debian boot and shutdown': guest.bootSeconds + shutdown,
      'compilation in Debian': seconds,
    };
  };

export const TINY_PROMPT = /TINY READY/;

export const onTiny =
  (images: ApplianceImages) =>
  async (nodes: Nodes): Promise<WorkloadSeconds> => {
    await using guest = await FigureGuest.boot(images, nodes, { prompt: TINY_PROMPT });
    const shutdown = await guest.shutdown('poweroff');
    return { 'tiny boot and shutdown': guest.bootSeconds + shutdown };
  };
