CREATE TABLE "lock_releases" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "lock_releases_id_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"resource" text COLLATE "C" NOT NULL,
	"asked_by" text NOT NULL,
	"reason" text,
	"robbed" jsonb,
	"fence" bigint,
	"created_at" timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
	"done_at" timestamp with time zone,
	CONSTRAINT "lock_releases_done_check" CHECK ("lock_releases"."done_at" IS NULL OR ("lock_releases"."fence" IS NOT NULL AND "lock_releases"."robbed" IS NOT NULL))
);
--> statement-breakpoint
CREATE INDEX "lock_releases_by_resource" ON "lock_releases" USING btree ("resource","id");