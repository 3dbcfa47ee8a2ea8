-- DropForeignKey
ALTER TABLE "_friends" DROP CONSTRAINT "_friends_A_fkey";

-- DropForeignKey
ALTER TABLE "_friends" DROP CONSTRAINT "_friends_B_fkey";

-- DropForeignKey
ALTER TABLE "other_type" DROP CONSTRAINT "other_type_t_fkey";

-- DropIndex
DROP INDEX "i_incl";

-- AlterTable
ALTER TABLE "_friends" ADD CONSTRAINT "_friends_AB_pkey" PRIMARY KEY ("A", "B");

-- DropIndex
DROP INDEX "_friends_AB_unique";

-- AlterTable
ALTER TABLE "defaults" ALTER COLUMN "d_texts" SET DEFAULT '{a,"b c",NULL}'::text[];

-- AlterTable
ALTER TABLE "keyed" DROP CONSTRAINT "keyed_pk",
ADD CONSTRAINT "keyed_pk" PRIMARY KEY ("id");

-- AlterTable
ALTER TABLE "list_key" DROP CONSTRAINT "list_key_pkey";

-- AlterTable
ALTER TABLE "types" ALTER COLUMN "a_numericneg" SET DATA TYPE DECIMAL,
ALTER COLUMN "a_shorter" SET NOT NULL,
ALTER COLUMN "a_shorter" SET DATA TYPE VARCHAR(10);

-- DropTable
DROP TABLE "no_columns";

-- CreateIndex
CREATE UNIQUE INDEX "list_key_pkey" ON "list_key"("a");

-- AddForeignKey
ALTER TABLE "_friends" ADD CONSTRAINT "_friends_A_fkey" FOREIGN KEY ("A") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "_friends" ADD CONSTRAINT "_friends_B_fkey" FOREIGN KEY ("B") REFERENCES "users"("id") ON DELETE CASCADE ON UPDATE CASCADE;
