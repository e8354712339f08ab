/**
 * The workloads of figures 2 and 3, each on any block nodes: the workstation boots, compiles zstd and is shut down; the tiny guest boots and is shut down.
 * A run of the workstation gives two of them: its boot with its shutdown, and the compilation between them on a guest that has only just booted.
 */
import type { ApplianceImages } from '../boot/appliance.js';
import { FigureGuest } from './figure-guest.js';
import type { Nodes } from './started-disks.js';

export const WORKLOADS = ['Debian boot and shutdown', 'tiny boot and shutdown', 'compilation in Debian'] as const;
export type Workload = (typeof WORKLOADS)[number];

/** Seconds by workload; what was fetched before the start is not in it. */
export type WorkloadSeconds = Readonly<Partial<Record<Workload, number>>>;

/** 50,000 lines of C without optimisation, which is most of what a processor that is emulated does in a minute; then linked, and written to the disk. */
const COMPILE =
  'cd /home && printf \'#include <stdio.h>\\nunsigned ZSTD_versionNumber(void);\\nint main(void){printf("%%u\\\\n", ZSTD_versionNumber());return 0;}\\n\' >main.c && gcc -O0 -pthread -o version main.c /usr/local/src/zstd.c && sync && ./version';

export const onDebian =
  (images: ApplianceImages) =>
  async (nodes: Nodes): Promise<WorkloadSeconds> => {
    await using guest = await FigureGuest.boot(images, nodes);
    await guest.login();
    const { seconds, output } = await guest.run(COMPILE);
    if (!/^\d{5}\s*$/.test(output.trim())) throw new Error(`the compiled program says ${JSON.stringify(output)}`);
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
