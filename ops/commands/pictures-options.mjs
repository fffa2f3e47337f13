/** The options of `npm run pictures`: read by ops/dev/test.mjs before it installs or starts anything, and by pictures.ts. */
import { join } from 'node:path'
import { readCommand } from '../dev/command.mjs'
import { ROOT } from '../dev/install.mjs'

const NAMES = [
  'calm',
  'phone',
  'sale',
  'purchase',
  'resource',
  'calendar',
  'history',
  'lab',
  'api',
  'jobs',
  'frozen-worker',
  'redis-frozen',
  'postgres-stopped',
]
const USAGE = `
npm run pictures [-- OPTIONS]     takes the pictures of README.md and docs/ in Chromium, of processes and servers of its own
  --only=NAMES       some of ${NAMES.slice(0, 7).join(', ')},
                     ${NAMES.slice(7).join(', ')}
  --out=DIR          docs/pictures by default
Exit code 1: a state did not come about. 2: the options make no sense.`

/** @see pictures-options.d.mts */
export function readOptions(args) {
  const command = readCommand({
    name: 'pictures',
    usage: USAGE,
    args,
    options: {
      only: { type: 'string', default: NAMES.join(',') },
      out: { type: 'string', default: join(ROOT, 'docs', 'pictures') },
    },
  })
  return { only: new Set(command.some('only', NAMES)), out: command.values.out }
}
