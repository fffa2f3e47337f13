import { defineConfig } from 'drizzle-kit'

export default defineConfig({ dialect: 'postgresql', schema: './src/shared/db/schema.ts', out: './drizzle' })
