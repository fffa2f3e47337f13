/**
 * Identifies recorded processes and ends them. A pid alone is not enough, because after a kill -9 or a reboot the
 * number may belong to another process. So a process is recorded as pid + start time, and only a process that matches
 * both gets a signal.
 */
import { spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** An error that the user can act on. It is printed as one line, without a stack. */
export class Refusal extends Error {}

const POLL_MS = 20

/** Returns "pid start-time" of a running process, or undefined if none runs (a zombie does not count). */
export function identityOf(pid) {
  if (process.platform === 'linux') {
    const fields = statOf(pid)
    if (fields.length === 0 || fields[0] === 'Z' || fields[0] === 'X') return undefined
    return `${pid} ${read('/proc/sys/kernel/random/boot_id')?.trim()}/${fields[19]}`
  }
  const started = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.trim()
  return started ? `${pid} ${started}` : undefined
}

/**
 * Returns true if any process runs in the group that `pid` led. Ignores zombies, which keep the group's number until
 * their parent reaps them, in a container possibly for ever.
 */
function groupRuns(pid) {
  if (!signal(-pid, 0)) return false
  if (process.platform !== 'linux') return true
  return readdirSync('/proc').some((entry) => {
    const [state, , group] = /^\d+$/.test(entry) ? statOf(entry) : []
    return group === String(pid) && state !== 'Z' && state !== 'X'
  })
}

/** Linux only: returns the fields of /proc/PID/stat from the state on, or none if the process does not exist. */
function statOf(pid) {
  return (
    read(`/proc/${pid}/stat`)
      ?.replace(/^.*\) /s, '')
      .split(' ') ?? []
  )
}

/** Returns the command line of a process, or ''. */
export function commandOf(pid) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
  } catch {
    return spawnSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.trim() ?? ''
  }
}

/** Sends a signal. @returns false if the process or group does not exist or is not ours */
export function signal(pid, name) {
  try {
    process.kill(pid, name)
    return true
  } catch {
    return false
  }
}

/**
 * Ends a process and, if it leads a group, all processes of the group. Signals the leader first, then the processes
 * that it left behind, and kills those that still run after deadline_ms. Resolves when all have ended.
 */
export async function killGroup(pid, { ask = 'SIGTERM', deadline_ms = 20_000 } = {}) {
  const runs = () => identityOf(pid) !== undefined
  const until = Date.now() + deadline_ms
  if (runs()) signal(pid, ask)
  while (runs() && Date.now() < until) await sleep(POLL_MS)
  if (!runs() && groupRuns(pid)) signal(-pid, 'SIGTERM')
  while ((runs() || groupRuns(pid)) && Date.now() < until) await sleep(POLL_MS)
  signal(-pid, 'SIGKILL')
  if (runs()) signal(pid, 'SIGKILL')
  // Wait at most five seconds after SIGKILL: only a hanging disk can take longer.
  const last = Date.now() + 5_000
  while ((runs() || groupRuns(pid)) && Date.now() < last) await sleep(POLL_MS)
}

/** Records a process that must not outlive the owner of `folder`, in case the owner is killed. */
export function recordPid(folder, name, pid) {
  mkdirSync(join(folder, 'run'), { recursive: true })
  writeFileSync(join(folder, 'run', name), identityOf(pid) ?? `${pid} gone`)
}

export function forgetPid(folder, name) {
  rmSync(join(folder, 'run', name), { force: true })
}

/**
 * Ends the processes that a killed owner of `folder` left running: first its own processes, then Redis and Postgres.
 */
export async function reapOrphans(folder, log) {
  let names = []
  try {
    names = readdirSync(join(folder, 'run'))
  } catch {
    return
  }
  const rank = (name) => (name === 'postgres' ? 2 : name === 'redis' ? 1 : 0)
  for (const name of names.sort((a, b) => rank(a) - rank(b))) {
    const written = readFileSync(join(folder, 'run', name), 'utf8')
    const pid = Number.parseInt(written, 10)
    const now = identityOf(pid)
    if (now === written || (pid > 1 && now === undefined && groupRuns(pid))) {
      log(`${name} (pid ${pid}) was left running by a start that was killed; stopping it`)
      await killGroup(pid, { ask: name === 'postgres' ? 'SIGINT' : 'SIGTERM', deadline_ms: 10_000 })
    }
    forgetPid(folder, name)
  }
}

/**
 * Locks a folder for one owner. Linking a file that is already written is atomic, so no process ever reads a
 * half-written lock. @returns the function that unlocks; throws a Refusal that names the holder
 */
export function lockFolder(folder, what) {
  const path = join(folder, 'lock')
  const mine = `${path}.${process.pid}`
  const identity = identityOf(process.pid) ?? `${process.pid}`
  writeFileSync(mine, identity)
  try {
    for (;;) {
      try {
        linkSync(mine, path)
        return () => {
          if (read(path) === identity) rmSync(path, { force: true })
        }
      } catch (error) {
        if (error.code !== 'EEXIST') throw error
      }
      const holder = read(path)
      if (holder === undefined) continue
      const pid = Number.parseInt(holder, 10)
      if (identityOf(pid) === holder)
        throw new Refusal(`${what} is already running here (pid ${pid}); stop that one first`)
      // The lock is stale. Move it away and read the moved file: if it is a lock taken in between, put it back.
      const moved = `${mine}.stale`
      try {
        renameSync(path, moved)
        if (read(moved) !== holder) linkSync(moved, path)
        rmSync(moved)
      } catch {
        // another process was faster: look again
      }
    }
  } finally {
    rmSync(mine, { force: true })
  }
}

function read(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

/** Resolves with true if a server can listen on this port at every given address of this machine. */
export async function portIsFree(port, hosts = ['127.0.0.1']) {
  for (const host of hosts) {
    const code = await new Promise((resolve) => {
      const server = createServer()
      server.once('error', (error) => resolve(error.code))
      server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(undefined)))
    })
    // The port is free at an address that this machine does not have (no IPv6).
    if (code !== undefined && code !== 'EADDRNOTAVAIL' && code !== 'EAFNOSUPPORT') return false
  }
  return true
}

export async function nextFreePort(from, hosts) {
  for (let port = from; port < from + 1_000 && port < 65_536; port++) if (await portIsFree(port, hosts)) return port
  throw new Refusal(`no free port from ${from} on`)
}

/**
 * Returns a free port below the range of the ports of outgoing connections, so that a server that is restarted finds
 * its port still free. The port is reserved until this process ends. Otherwise another process could draw it while the
 * server is still starting, and would read the server's answers as those of its own server.
 */
export async function anyFreePort() {
  for (let tries = 0; tries < 200; tries++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    if ((await claim(port)) && (await portIsFree(port))) return port
  }
  throw new Refusal('no free port from 20000 to 32000')
}

/**
 * Reserves a TCP port by binding the UDP port of the same number, which no server here uses. The system gives it to one
 * process only, and frees it when that process ends, however it ends.
 */
function claim(port) {
  return new Promise((resolve) => {
    const sign = createSocket('udp4')
    sign.once('error', () => {
      sign.close()
      resolve(false)
    })
    sign.bind({ port, address: '127.0.0.1' }, () => {
      sign.unref()
      resolve(true)
    })
  })
}
