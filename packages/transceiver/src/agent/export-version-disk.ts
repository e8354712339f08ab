/** `export`: a disk of a version as an NBD server on a socket, for as long as the person's command waits. */
import { CollectiveError } from '@collective/shared';
import type { ExportRequest } from './agent-types.js';
import type { JobContext } from './agent-server.js';
import type { MachinePort } from './machine-port.js';
import type { ObjectCache } from './object-cache.js';
import { runnableVersion } from './runnable-version.js';
import type { Session } from './session.js';

type ExportParts = {
  readonly session: Session;
  readonly objects: ObjectCache;
  readonly machines: Pick<MachinePort, 'export'>;
  readonly job: JobContext;
  /** As Agent has it: a logout that removes everything waits for it. */
  readonly asJob: <T>(name: string, work: () => Promise<T>) => Promise<T>;
};

/** Errors: those of `runnableVersion`, `not-found` for a disk that it does not have, those of the machine port. */
export async function exportVersionDisk(request: ExportRequest, parts: ExportParts): Promise<void> {
  const { session, objects, machines, job, asJob } = parts;
  const { source, note } = await session.refresh(job.signal);
  if (note !== undefined) job.emit({ event: 'note', text: note });
  const { name, version: asked } = request;
  const wanted = { name, ...(asked === undefined ? {} : { version: asked }), isOnline: source !== undefined };
  const { verified, disks } = await runnableVersion(wanted, { session, objects, signal: job.signal });
  for (const text of verified.notes) job.emit({ event: 'note', text });
  const { version } = verified.manifest;
  const reference = `${name}@${String(version)}`;
  const disk = disks.find(({ description }) => description.name === request.disk);
  if (disk === undefined) {
    const known = disks.map(({ description }) => description.name).join(', ');
    throw new CollectiveError('not-found', `${reference} has no disk ${request.disk}; it has ${known}.`);
  }
  const { socket: socketPath, writable } = request;
  const text = `Serving disk ${request.disk} of ${reference} at ${socketPath}.`;
  await asJob(`the export of ${reference}`, async () =>
    machines.export(
      { name, version, disk, blocks: session.client.address, socketPath, writable },
      { signal: job.signal, onServing: () => job.emit({ event: 'progress', step: 'serving', text }) },
    ),
  );
}
