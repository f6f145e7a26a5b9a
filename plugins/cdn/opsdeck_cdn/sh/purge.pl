# Remove the files of a cache of nginx whose key fits. Data comes on standard input: the folder, `whole` or `prefix`,
# then one wanted key (without what follows `|bytes=`) a line. Perl is part of every Debian.
use strict;
use warnings;
use File::Find;
chomp(my $folder = <STDIN>);
chomp(my $what = <STDIN>);
my @wanted = map { chomp; $_ } <STDIN>;
my %whole = map { $_ => 1 } @wanted;
my ($seen, $gone) = (0, 0);
exit(print("seen 0 gone 0\n") ? 0 : 1) unless -d $folder;
find({ no_chdir => 1, wanted => sub {
    return unless /\/[0-9a-f]{32}\z/ && -f $_;
    open(my $file, '<:raw', $_) or return;
    read($file, my $head, 16384);
    close($file);
    $seen++;
    return unless $head =~ /\nKEY: ([^\n]*)\n/;
    my $key = $1;
    $key =~ s/\|bytes=\d+-\d+\z//;
    $key =~ s/\|\z//;
    my $fits = $what eq 'whole' ? $whole{$key} : grep { index($key, $_) == 0 } @wanted;
    $gone++ if $fits && unlink($_);
} }, $folder);
print "seen $seen gone $gone\n";
