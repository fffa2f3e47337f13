/** A wall clock that a test sets, for the servers that it starts with this environment. Their monotonic clock goes on. */
import { existsSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ensureFaketime } from '../../ops/dev/install.mjs'

const SHARED = '/dev/shm'

export interface Clock {
  env: NodeJS.ProcessEnv
  /** To so many seconds beside the true time. */
  set(offset_s: number): void
  /** After the servers have ended. */
  remove(): void
}

export function makeClock(): Clock {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-clock-'))
  const file = join(folder, 'clock')
  const set = (offset_s: number) => {
    // Replaced in one step: the servers read it whenever they look at their clock.
    writeFileSync(`${file}.next`, `${offset_s < 0 ? '' : '+'}${offset_s}\n`)
    renameSync(`${file}.next`, file)
  }
  set(0)
  return {
    env: {
      // libc first after it: jemalloc's malloc asks for the time while it is being asked for.
      LD_PRELOAD: `${ensureFaketime(() => {})} libc.so.6`,
      FAKETIME_TIMESTAMP_FILE: file,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    },
    set,
    remove() {
      rmSync(folder, { recursive: true, force: true })
      forgetTheDead()
    },
  }
}

/** What libfaketime keeps for a process in memory stays when the process is killed. */
function forgetTheDead(): void {
  for (const name of readdirSync(SHARED)) {
    const pid = Number(/^(?:sem\.)?faketime_(?:sem|shm)_(\d+)$/.exec(name)?.[1])
    if (pid && !existsSync(`/proc/${pid}`)) rmSync(join(SHARED, name), { force: true })
  }
}
