/**
 * Which process is which, and how it ends. A pid alone is not enough: after a kill -9 or a reboot the number may belong
 * to another process, so a process is recorded as pid + start time, and only a match is ever signalled.
 */
import { spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** What a person can act on: printed as one line, without a stack. */
export class Refusal extends Error {}

const POLL_MS = 20

/** "pid start-time" of a running process; undefined when there is none (a zombie runs no more). */
export function identityOf(pid) {
  if (process.platform === 'linux') {
    const fields = statOf(pid)
    if (fields.length === 0 || fields[0] === 'Z' || fields[0] === 'X') return undefined
    return `${pid} ${read('/proc/sys/kernel/random/boot_id')?.trim()}/${fields[19]}`
  }
  const started = spawnSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.trim()
  return started ? `${pid} ${started}` : undefined
}

/** Whether anything runs in the group that `pid` led. A zombie keeps its group's number until its parent reaps it,
 *  which in a container may be for ever. */
function groupRuns(pid) {
  if (!signal(-pid, 0)) return false
  if (process.platform !== 'linux') return true
  return readdirSync('/proc').some((entry) => {
    const [state, , group] = /^\d+$/.test(entry) ? statOf(entry) : []
    return group === String(pid) && state !== 'Z' && state !== 'X'
  })
}

/** Linux: the fields of /proc/PID/stat from the state on; none when there is no such process. */
function statOf(pid) {
  return (
    read(`/proc/${pid}/stat`)
      ?.replace(/^.*\) /s, '')
      .split(' ') ?? []
  )
}

/** The command line of a process, or ''. */
export function commandOf(pid) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
  } catch {
    return spawnSync('ps', ['-o', 'command=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.trim() ?? ''
  }
}

/** @returns false when the process or group is gone (or not ours) */
export function signal(pid, name) {
  try {
    process.kill(pid, name)
    return true
  } catch {
    return false
  }
}

/**
 * Ends a process and whatever else runs in its group, when it leads one: asks the leader, then what it left behind, and
 * kills what still runs after deadline_ms. Resolves when all of it is gone.
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
  // Five seconds after SIGKILL there is nothing left to wait for but a disk that hangs.
  const last = Date.now() + 5_000
  while ((runs() || groupRuns(pid)) && Date.now() < last) await sleep(POLL_MS)
}

/** Writes down a process that must not outlive the owner of `folder`, in case the owner is killed. */
export function recordPid(folder, name, pid) {
  mkdirSync(join(folder, 'run'), { recursive: true })
  writeFileSync(join(folder, 'run', name), identityOf(pid) ?? `${pid} gone`)
}

export function forgetPid(folder, name) {
  rmSync(join(folder, 'run', name), { force: true })
}

/** Ends what a killed owner of `folder` left running: its own processes first, then Redis and Postgres. */
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
 * One owner a folder. Linking a file that is already written is atomic, so no process ever reads a half-written lock.
 * @returns the function that unlocks; throws a Refusal that names the holder
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
      // Stale. The process that moves it away reads what it moved: a lock taken in between is put back.
      const moved = `${mine}.stale`
      try {
        renameSync(path, moved)
        if (read(moved) !== holder) linkSync(moved, path)
        rmSync(moved)
      } catch {
        // another one was faster; look again
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

/** True when this port can be listened on at every given address of this machine. */
export async function portIsFree(port, hosts = ['127.0.0.1']) {
  for (const host of hosts) {
    const code = await new Promise((resolve) => {
      const server = createServer()
      server.once('error', (error) => resolve(error.code))
      server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(undefined)))
    })
    // An address that this machine does not have (no IPv6) holds no port.
    if (code !== undefined && code !== 'EADDRNOTAVAIL' && code !== 'EAFNOSUPPORT') return false
  }
  return true
}

export async function nextFreePort(from, hosts) {
  for (let port = from; port < from + 1_000 && port < 65_536; port++) if (await portIsFree(port, hosts)) return port
  throw new Refusal(`no free port from ${from} on`)
}

/** A free port below the range from which systems take the ports of outgoing connections, so that a server that is
 *  stopped and started again finds its port still free. It is this process's until it ends: another process that drew it
 *  while the server is still starting would take that server's answers for those of its own server. */
export async function anyFreePort() {
  for (let tries = 0; tries < 200; tries++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    if ((await claim(port)) && (await portIsFree(port))) return port
  }
  throw new Refusal('no free port from 20000 to 32000')
}

/** Takes the UDP port of that number, which no server here wants, as the sign that the TCP port is taken: the system lets
 *  one process have it and gives it back when that one ends, however it ends. */
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
