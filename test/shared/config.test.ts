/** The list of variables that tests and benchmarks hide from the processes they start. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from '../../ops/dev/install.mjs'
import { isConfiguration } from '../../src/shared/config.ts'

t.test('variable of .env.example: hidden from tests and benchmarks; variable of the shell: not hidden', async (t) => {
  const example = readFileSync(join(ROOT, '.env.example'), 'utf8')
  const names = Array.from(example.matchAll(/^#([A-Z][A-Z_]+)=/gm), ([, name = '']) => name)
  t.ok(names.length > 30, `${names.length} were found`)
  for (const name of [...names, 'NODE_ENV', 'PGPASSWORD']) t.ok(isConfiguration(name), name)
  for (const name of ['PATH', 'HOME', 'TMPDIR', 'LANG', 'NODE_OPTIONS']) t.notOk(isConfiguration(name), name)
})
