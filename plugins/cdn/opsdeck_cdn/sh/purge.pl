# Remove the files of a cache of nginx whose key fits. Data comes on standard input: the folder, the file whose word is
# another after every purge, `whole` or `prefix`, then one wanted key (without what follows `|bytes=`) a line.
# perl-base is on every Debian; its modules are not.
use strict;
use warnings;

sub line { my $text = <STDIN>; $text = '' unless defined $text; chomp $text; return $text }

my $folder = line();
my $word = line();
my $what = line();
my @wanted;
while (my $text = <STDIN>) { chomp $text; push @wanted, $text }
my %whole = map { $_ => 1 } @wanted;
my ($seen, $gone, $since) = (0, 0, 0);

# What was asked of an origin under the old word is not kept, once its answer begins.
sub mark {
    open(my $file, '>', "$word.new") or die "$word.new: $!\n";
    printf $file "%d.%d.%d", time, $$, int(rand(1 << 30));
    close($file) or die "$word.new: $!\n";
    rename("$word.new", $word) or die "$word: $!\n";
}

sub judge {
    my ($path) = @_;
    open(my $file, '<:raw', $path) or return;
    return if $since && (stat $file)[9] < $since;
    read($file, my $head, 16384);
    close($file);
    $seen++ unless $since;
    return unless $head =~ /\nKEY: ([^\n]*)\n/;
    my $key = $1;
    $key =~ s/\|(?:bytes=\d+-\d+)?\z//;
    my $fits = $what eq 'whole' ? $whole{$key} : grep { index($key, $_) == 0 } @wanted;
    $gone++ if $fits && unlink($path);
}

sub walk {
    my ($path) = @_;
    opendir(my $handle, $path) or return;
    my @names = readdir($handle);
    closedir($handle);
    for my $name (@names) {
        if ($name =~ /\A[0-9a-f]{1,2}\z/) { walk("$path/$name") }
        # With the figures at its end it is still being written, and nobody finds it once it is whole.
        elsif ($name =~ /\A[0-9a-f]{32}(?:\.\d{10})?\z/) { judge("$path/$name") }
    }
}

my $begun = time;
mark();
walk($folder);
# An answer that had begun may only now have got its file.
select(undef, undef, undef, 0.3);
$since = $begun - 2;
walk($folder);
print "seen $seen gone $gone\n";
