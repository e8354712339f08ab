/**
 * collective doctor: what this machine needs and has, one line each, with what to do. It changes nothing and starts
 * nothing. Exit code 10 when something that is needed is missing.
 */
import { statfs } from 'node:fs/promises';
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS, type AgentStatus } from '../../agent/agent-types.js';
import { openHome, homeDirectory, type Home } from '../../home.js';
import { runningAgent } from '../agent-process.js';
import { megabytes, printResult, timeOf, type GlobalOptions } from '../output.js';

type Finding = { readonly what: string; readonly state: 'ok' | 'note' | 'missing'; readonly text: string };

const DISK_FREE_BYTES_MIN = 5e9;
const QEMU_MIN = [7, 2] as const;
const CLOCK_SLACK_SECONDS = 300;

export async function doctor(options: GlobalOptions): Promise<void> {
  const home = await openHome(homeDirectory(options.home));
  const findings: Finding[] = [
    nodeVersion(),
    await program('qemu-system-x86_64', 'qemu-system-x86'),
    await program('qemu-img', 'qemu-utils'),
    await program('qemu-nbd', 'qemu-utils'),
    await accelerator(),
    await firmware(),
    await confinementPrograms(),
    await fastCalls(),
    await diskSpace(home),
    { what: 'sockets', state: 'ok', text: `in ${home.runDirectory}` },
    {
      what: 'session keys',
      state: home.sessionDirectory.startsWith(home.directory) ? 'note' : 'ok',
      text: sessionPlace(home),
    },
    ...(await agentFindings(options)),
  ];
  const isFit = findings.every((finding) => finding.state !== 'missing');
  const marks = { ok: 'ok  ', note: 'note', missing: 'MISS' } as const;
  const width = Math.max(...findings.map((finding) => finding.what.length));
  printResult(
    options,
    { fit: isFit, findings },
    findings.map((finding) => `${marks[finding.state]}  ${finding.what.padEnd(width)}  ${finding.text}`).join('\n'),
  );
  if (!isFit) process.exitCode = 10;
}

function nodeVersion(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const isNew = major > 20 || (major === 20 && minor >= 19);
  return {
    what: 'Node.js',
    state: isNew ? 'ok' : 'missing',
    text: `${process.versions.node}${isNew ? '' : ', 20.19 or later is needed'}`,
  };
}

async function program(name: string, debianPackage: string): Promise<Finding> {
  const { runProgram } = await import('../../publish/run-program.js');
  try {
    const { stdout } = await runProgram(name, ['--version'], { timeoutMs: 10_000 });
    const version = /(\d+)\.(\d+)(\.\d+)?/.exec(stdout);
    const [major, minor] = [Number(version?.[1] ?? 0), Number(version?.[2] ?? 0)];
    const isNew = major > QEMU_MIN[0] || (major === QEMU_MIN[0] && minor >= QEMU_MIN[1]);
    return {
      what: name,
      state: isNew ? 'ok' : 'missing',
      text: `${version?.[0] ?? 'unknown version'}${isNew ? '' : `, ${QEMU_MIN.join('.')} or later is needed`}`,
    };
  } catch {
    return { what: name, state: 'missing', text: `is not installed. On Debian: sudo apt-get install ${debianPackage}` };
  }
}

async function accelerator(): Promise<Finding> {
  const { findAccelerator } = await import('../../machine/accelerator.js');
  const { accelerator: found, reason } = await findAccelerator('auto');
  return { what: 'virtualisation', state: found === 'kvm' ? 'ok' : 'note', text: reason };
}

async function firmware(): Promise<Finding> {
  const { findUefiFirmware } = await import('../../machine/programs.js');
  try {
    return { what: 'UEFI firmware', state: 'ok', text: (await findUefiFirmware()).code };
  } catch (error) {
    return { what: 'UEFI firmware', state: 'note', text: `${messageOf(error)} (only for appliances with UEFI)` };
  }
}

async function confinementPrograms(): Promise<Finding> {
  const { findProgram } = await import('../../machine/programs.js');
  try {
    await findProgram('prlimit');
    await findProgram('setpriv');
    const isRoot = process.getuid?.() === 0;
    return {
      what: 'confinement',
      state: 'note',
      text: `not confined: QEMU runs ${isRoot ? 'as a user of its own' : 'as you'}, with limits and its system-call filter, but not in namespaces; a guest reaches this host's network`,
    };
  } catch (error) {
    return { what: 'confinement', state: 'missing', text: messageOf(error) };
  }
}

async function fastCalls(): Promise<Finding> {
  const { syscalls } = await import('../../blockd/syscalls.js');
  return syscalls === undefined
    ? {
        what: 'koffi',
        state: 'note',
        text: 'is not there: reads are slower and every one is checked by checksum (npm install koffi)',
      }
    : { what: 'koffi', state: 'ok', text: 'fast reads and holes' };
}

async function diskSpace(home: Home): Promise<Finding> {
  const { bavail, bsize } = await statfs(home.cacheDirectory);
  const freeBytes = bavail * bsize;
  const text = `${megabytes(freeBytes)} free at ${home.directory}`;
  return freeBytes < DISK_FREE_BYTES_MIN
    ? { what: 'disk space', state: 'note', text: `${text}: little, the cache stays small` }
    : { what: 'disk space', state: 'ok', text };
}

const sessionPlace = (home: Home): string =>
  home.sessionDirectory.startsWith(home.directory)
    ? 'lie on disk while you are logged in: this machine has no tmpfs of yours'
    : `on tmpfs, ${home.sessionDirectory}`;

async function agentFindings(options: GlobalOptions): Promise<Finding[]> {
  const found = await runningAgent(options);
  if (found === undefined)
    return [{ what: 'agent', state: 'note', text: 'is not running; the next command starts it' }];
  try {
    const status = (await found.client.get(AGENT_PATHS.status)) as AgentStatus;
    const { repository, supervisor, session } = status;
    const findings: Finding[] = [
      { what: 'agent', state: 'ok', text: `process ${String(status.agent.pid)} since ${timeOf(status.agent.since)}` },
      {
        what: 'supervisor',
        state: supervisor.running ? 'ok' : 'note',
        text: supervisor.running ? `process ${String(supervisor.pid ?? '?')}` : 'is not running; a start starts it',
      },
      {
        what: 'session',
        state: session === null ? 'note' : 'ok',
        text: session === null ? 'none: collective login' : session.account,
      },
    ];
    if (repository !== null) findings.push(await repositoryFinding(found.client, repository), clock(repository.newsAt));
    return findings;
  } catch (error) {
    return [{ what: 'agent', state: 'missing', text: messageOf(error) }];
  }
}

async function repositoryFinding(
  client: { get(path: string): Promise<unknown> },
  repository: { readonly origin: string },
): Promise<Finding> {
  try {
    const reply = (await client.get(AGENT_PATHS.appliances)) as { readonly connected: boolean; readonly note?: string };
    return {
      what: 'repository',
      state: reply.connected ? 'ok' : 'note',
      text: `${repository.origin}${reply.note === undefined ? '' : `: ${reply.note}`}`,
    };
  } catch (error) {
    const isOut = error instanceof CollectiveError && error.code === 'not-logged-in';
    return { what: 'repository', state: isOut ? 'note' : 'missing', text: `${repository.origin}: ${messageOf(error)}` };
  }
}

/** Clocks are never compared for security; a wrong one still breaks certificates and misleads people. */
function clock(newsAt: number | null): Finding {
  const now = Math.floor(Date.now() / 1000);
  const isBehind = newsAt !== null && now < newsAt - CLOCK_SLACK_SECONDS;
  return {
    what: 'clock',
    state: isBehind ? 'note' : 'ok',
    text: `${timeOf(now)}${isBehind ? `: behind the repository's news of ${timeOf(newsAt)}` : ''}`,
  };
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
